//! The flags of `nomad bench` and how they become a [`BenchPlan`].

use clap::{Args, ValueEnum};

use super::{
    BenchError,
    plan::BenchPlan,
    target::{BenchApi, BenchTarget},
};

/// The protocol under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchProtocol {
    /// HTTP/1.1, one connection per worker.
    Rest,
    /// gRPC, all workers on a few connections.
    Grpc,
}

/// How the report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputFormat {
    /// A table for people.
    #[default]
    Text,
    /// One JSON document with stable keys.
    Json,
}

const EXAMPLES: &str = "\
Examples:
  nomad bench --preload
      gRPC, 90 % get and 10 % put, as fast as the answers come
  nomad bench --protocol rest --mix put=1 --value-size 1KiB --concurrency 16
      durable creates over REST
  nomad bench --preload --rate 2000 --duration 1m --output json
      latency at 2000 requests per second, as JSON";

/// Loads a node and reports throughput and latency percentiles.
///
/// Without --rate, each worker sends its next request when the last one is answered (closed loop, plain service
/// times). With --rate, requests have a timetable and latency counts from the intended start (open loop).
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArgs {
    /// Protocol to load [default: rest when only a URL is given, else grpc].
    #[arg(long, value_enum)]
    pub protocol: Option<BenchProtocol>,
    /// REST base of the node, such as http://127.0.0.1:8080.
    #[arg(long, env = "NOMAD_URL")]
    pub url: Option<String>,
    /// gRPC storage listener of the node; found like the REST base when absent.
    #[arg(long, value_name = "HOST:PORT")]
    pub storage: Option<String>,
    /// REST API to use: raw bytes under /nomad/v1/objects, or JSON under /nomad/storage.
    #[arg(long, value_enum, default_value_t)]
    pub api: BenchApi,
    /// The load, but for its target.
    #[command(flatten)]
    pub load: BenchPlan,
    /// How to print the report.
    #[arg(long, value_enum, default_value_t)]
    pub output: OutputFormat,
    /// Print progress each second even when standard error is no terminal.
    #[arg(long)]
    pub progress: bool,
}

impl BenchArgs {
    /// The REST base that is given; an empty environment variable gives none.
    fn url(&self) -> Option<&String> {
        self.url.as_ref().filter(|url| !url.is_empty())
    }

    /// The protocol that the flags ask for.
    pub fn protocol(&self) -> BenchProtocol {
        self.protocol.unwrap_or(match (self.url(), &self.storage) {
            (Some(_), None) => BenchProtocol::Rest,
            _ => BenchProtocol::Grpc,
        })
    }

    /// The plan that the flags describe. `find` is asked for the address when the flags name none: a REST base or
    /// `host:port` of a storage listener, as [`BenchArgs::protocol`] needs; its error is a text for the user.
    ///
    /// # Errors
    ///
    /// [`BenchError::NoTarget`] with the text of `find`; [`BenchError::InvalidPlan`] with everything that is wrong.
    pub fn plan(
        &self,
        find: impl FnOnce(&BenchArgs) -> Result<String, String>,
    ) -> Result<BenchPlan, BenchError> {
        let given = match self.protocol() {
            BenchProtocol::Rest => self.url(),
            BenchProtocol::Grpc => self.storage.as_ref(),
        };
        let address = match given {
            Some(address) => address.clone(),
            None => find(self).map_err(BenchError::NoTarget)?,
        };
        let target = match self.protocol() {
            BenchProtocol::Rest => {
                address.parse().map(|base| BenchTarget::Rest { base, api: self.api })
            }
            BenchProtocol::Grpc => address.parse().map(|storage| BenchTarget::Grpc { storage }),
        };
        let target = target.map_err(|problem| BenchError::InvalidPlan(vec![problem]))?;
        let plan = BenchPlan { target, ..self.load.clone() };
        plan.validate()?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _, Parser};

    use super::*;
    use crate::bench::Mode;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(flags: &[&str]) -> Result<BenchArgs, String> {
        let words = ["bench"].iter().chain(flags);
        // Whatever NOMAD_URL says where the tests run is none of their business.
        let command = Cli::command().mut_arg("url", |arg| arg.env(None));
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        Ok(Cli::from_arg_matches(&matches).unwrap().bench)
    }

    fn no_node(_: &BenchArgs) -> Result<String, String> {
        Err("no node runs here".to_owned())
    }

    #[test]
    fn all_flags_reach_the_plan() {
        let flags = "--protocol rest --url http://127.0.0.1:8080 --mix put=3,update=1 --value-size 1KiB \
                     --keys 5 --preload --concurrency 8 --duration 1m --warmup 500ms --rate 99.5 --mode safe \
                     --api storage --seed 7 --timeout 3s --key-prefix k --output json --progress";
        let args = parse(&flags.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert!(args.progress && args.output == OutputFormat::Json);
        let plan = args.plan(no_node).unwrap();
        let base = "http://127.0.0.1:8080".parse().unwrap();
        assert_eq!(plan.target, BenchTarget::Rest { base, api: BenchApi::Storage });
        assert_eq!(plan.mix.to_string(), "put=3,update=1");
        assert_eq!((plan.value_size_bytes, plan.key_count, plan.preload), (1024, 5, true));
        assert_eq!((plan.concurrency, plan.connection_count(), plan.seed), (8, 8, 7));
        let millis = [plan.duration, plan.warmup, plan.timeout].map(|span| span.as_millis());
        assert_eq!(millis, [60_000, 500, 3000]);
        assert_eq!((plan.rate, plan.mode), (Some(99.5), Some(Mode::Safe)));
        assert_eq!(plan.key_prefix, "k");
    }

    #[test]
    fn the_defaults_load_the_storage_listener_that_is_found() {
        let args = parse(&[]).unwrap();
        let plan = args.plan(|_| Ok("127.0.0.1:6735".to_owned())).unwrap();
        let defaults =
            BenchPlan::new(BenchTarget::Grpc { storage: "127.0.0.1:6735".parse().unwrap() });
        assert_eq!(format!("{plan:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn the_protocol_follows_from_the_address_given() {
        let protocol = |flags: &[&str]| parse(flags).unwrap().protocol();
        let (url, storage) = (["--url", "http://a"], ["--storage", "a:1"]);
        assert_eq!(protocol(&url), BenchProtocol::Rest);
        assert_eq!(protocol(&storage), BenchProtocol::Grpc);
        assert_eq!(protocol(&[url, storage].concat()), BenchProtocol::Grpc);
        assert_eq!(protocol(&[url, ["--protocol", "grpc"]].concat()), BenchProtocol::Grpc);
        assert_eq!(protocol(&["--url="]), BenchProtocol::Grpc);
    }

    #[test]
    fn a_missing_node_is_a_failure_and_a_bad_plan_bad_usage() {
        let error = parse(&[]).unwrap().plan(no_node).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.exit_code()),
            ("no target: no node runs here", 1)
        );
        let args = parse(&["--storage", "here", "--rate", "-1"]);
        assert!(args.is_err(), "a value that looks like a flag is refused by the parser");
        let args = parse(&["--storage", "127.0.0.1:1", "--rate=0", "--keys", "0"]).unwrap();
        let error = args.plan(no_node).unwrap_err();
        let text = "this load cannot run: keys is 0; it must be from 1 to 1000000000; rate is 0; it must be \
                    above 0 and at most 10000000 requests per second";
        assert_eq!((error.to_string().as_str(), error.exit_code()), (text, 2));
    }

    #[test]
    fn the_examples_in_the_help_parse() {
        let examples = EXAMPLES.lines().filter_map(|line| line.trim().strip_prefix("nomad bench "));
        let parsed: Vec<_> =
            examples.map(|line| parse(&line.split(' ').collect::<Vec<_>>()).unwrap()).collect();
        assert_eq!(parsed.len(), 3);
    }

    #[test]
    fn a_bad_value_is_named_by_the_parser() {
        for (flag, value, part) in [
            ("--mix", "read=1", "the operations are get, put, update, delete"),
            ("--value-size", "1 kB", "KiB, MiB or GiB"),
            ("--duration", "10", "unit"),
            ("--protocol", "soap", "rest, grpc"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(value) && error.contains(part), "{flag} {value}: {error}");
        }
    }
}
