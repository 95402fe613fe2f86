//! `nomad bench` as a command: finds the node, runs the load, judges the outcome.

use std::io::stdout;

use tokio::runtime::Builder;

use super::{
    args::{BenchCommand, ConnectionArgs},
    bench::{self, BenchProtocol},
    cwd,
    error::CliError,
    node_address,
    rest::Rest,
    runtime, status,
};

/// Runs the load that the flags describe.
pub(super) fn run(args: BenchCommand) -> Result<(), CliError> {
    runtime(Builder::new_multi_thread())?.block_on(async {
        let BenchCommand { load: mut args, data_dir } = args;
        if data_dir.is_some() {
            // The environment may name another node; the flag counts more.
            args.url = None;
        }
        let named = match args.protocol() {
            // It is REST by its URL alone, or by its name.
            BenchProtocol::Rest => args.url.as_ref().is_some_and(|url| !url.is_empty()),
            BenchProtocol::Grpc => args.storage.is_some(),
        };
        let found = if named {
            String::new()
        } else {
            let url = args
                .url
                .as_deref()
                .filter(|url| !url.is_empty())
                .map(str::parse)
                .transpose()
                .map_err(CliError::BadUrl)?;
            find(args.protocol(), ConnectionArgs { url, data_dir, timeout: args.load.timeout })
                .await?
        };
        let stop = async {
            // Where the signal cannot be had, it ends the process.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending().await
            }
        };
        let report = bench::execute(&args, |_| Ok(found), stop, &mut stdout().lock()).await?;
        if report.overall.count == 0 { Err(CliError::BenchInVain) } else { Ok(()) }
    })
}

/// The address to load: a REST base, or the storage listener of the node that REST leads to.
async fn find(protocol: BenchProtocol, connection: ConnectionArgs) -> Result<String, CliError> {
    let cwd = cwd()?;
    let base = match (&connection.url, protocol) {
        // Its own file says more than its REST listener.
        (None, BenchProtocol::Grpc) => {
            let (_, addresses) = node_address::running(connection.data_dir.as_deref(), &cwd)?;
            return Ok(addresses.storage);
        }
        _ => node_address::find(&connection, None, &cwd)?,
    };
    if protocol == BenchProtocol::Rest {
        return Ok(base.to_string());
    }
    let rest = Rest::new(base, connection.timeout);
    let status: status::StatusPage = rest.send(status::ask()).await?.json()?;
    let this = status.members.into_iter().find(|member| member.node_id == status.node_id);
    Ok(this.map(|member| member.storage).unwrap_or_default())
}
