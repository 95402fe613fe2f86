//! What `--help` says beyond the flags: the groups of commands, and examples.

use clap::{Command, CommandFactory as _};

use super::args::Cli;

/// The commands in the order and under the headings of `nomad --help`.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Run a node", &["start", "dev", "config"]),
    ("Work with objects", &["put", "get", "update", "delete"]),
    ("Look into a node", &["status", "actors", "trace", "leave", "debug"]),
    ("More", &["bench", "completions"]),
];

const EXAMPLES: &str = "\
Examples:
  nomad dev                             run a network of four nodes, to try things out
  nomad start                           run a node, with its data in ./nomad-data/node-0
  nomad put item:99 '{\"x\":1}'           create an object on it
  nomad get item:99                     print the object's value
  nomad status                          show the node

Commands other than start and dev find the node by --url, NOMAD_URL or --data-dir, else take the lowest
nomad-data/node-N in the working directory that runs. nomad COMMAND --help says more.
Exit codes: 0 done, 1 failed, 2 bad usage or bad configuration.";

pub(super) const START: &str = "\
Examples:
  nomad start
  nomad start --type super-peer --config configs/config.yaml
  nomad start --data-dir /var/lib/nomad
  nomad start --bootstrap 10.0.0.1:4001 --bootstrap 10.0.0.2:4001
  NODE_PORTS_REST=8080 nomad start

Every key of the configuration can be set from the environment. The node logs one line \"Node running\"
with its addresses when it serves. SIGTERM and SIGINT stop it in order, a second one at once.";

pub(super) const DEV: &str = "\
Examples:
  nomad dev
  nomad dev --peers 8 --super-peers 2
  nomad dev --data-dir dev-data         keeps its objects and groups for the next time

All nodes run in this process, on 127.0.0.1 with free ports, as a network of their own. The table says
where each one listens. The configuration is read as nomad start reads it; ports, directories, addresses
and the ways to find other nodes are set by this command. Ctrl-C stops all nodes, a second one at once.";

pub(super) const CONFIG: &str = "\
Example:
  nomad config check -c configs/config.yaml";

pub(super) const CONFIG_CHECK: &str = "\
Examples:
  nomad config check
  nomad config check -c configs/config.yaml
  NODE_WORLD_WIDTH=100.0 nomad config check

What differs from the defaults says where it came from. Warnings and problems go to standard error.";

pub(super) const PUT: &str = "\
Examples:
  nomad put item:99 '{\"x\":1}' --content-type application/json
  nomad put map:7 --file map.bin --ttl 1h
  date | nomad put now

It creates, and fails if the object exists; nomad update replaces. Values that begin with a dash
go behind --, as in: nomad put item:1 -- --value";

pub(super) const UPDATE: &str = "\
Examples:
  nomad update item:99 '{\"x\":2}'
  nomad update map:7 --file map.bin --if-version \"$VERSION\"

It fails if the object does not exist; nomad put creates. The new expiry is the one given, none if
there is none. nomad get --output json shows the version.";

pub(super) const GET: &str = "\
Examples:
  nomad get item:99
  nomad get map:7 > map.bin
  nomad get item:99 --output json --mode safe";

pub(super) const DELETE: &str = "\
Examples:
  nomad delete item:99
  nomad delete item:99 --if-version \"$VERSION\"";

pub(super) const STATUS: &str = "\
Examples:
  nomad status
  nomad status --url http://127.0.0.1:8080 --output json";

pub(super) const LEAVE: &str = "\
Examples:
  nomad leave
  nomad leave --url http://127.0.0.1:8080 --within 5m

The node goes on running without a group, and looks for none until it is started again or asked into one
with addPeer. Stopping a node is not leaving: it comes back as the same member.
It is told once; if it has not left in time, the exit code is 1, and nomad status shows how it goes on.";

pub(super) const ACTORS: &str = "\
Examples:
  nomad actors
  nomad actors --output json";

pub(super) const TRACE: &str = "\
Examples:
  nomad trace --limit 20
  nomad trace --object item:99
  nomad trace --request 4bf92f3577b34da6a3ce929d0e0e4736
  nomad trace --actor replica_writer-0 --follow
  nomad trace capture --limit 100 --object item:99

A step is a message that an actor handled. --limit counts steps, so the oldest request shown may lack
some. Filters add up.";

pub(super) const TRACE_CAPTURE: &str = "\
Examples:
  nomad trace capture --limit 100                     begin
  nomad trace capture --limit 100 --object item:99    begin, this object only
  nomad trace capture                                 show what it has
  nomad trace capture --stop                          end it";

pub(super) const DEBUG: &str = "\
Example:
  nomad debug kill replica_writer-0";

pub(super) const DEBUG_KILL: &str = "\
Example:
  nomad debug kill replica_writer-0 && nomad actors

The node must allow it: debug.allowKill: true, or DEBUG_ALLOWKILL=true.";

pub(super) const COMPLETIONS: &str = "\
Examples:
  source <(nomad completions bash)
  nomad completions zsh > ~/.zfunc/_nomad
  nomad completions fish > ~/.config/fish/completions/nomad.fish";

/// The whole command line, its top-level help in groups.
pub(super) fn command() -> Command {
    let command = Cli::command();
    let template = template(&command);
    command.help_template(template)
}

fn template(command: &Command) -> String {
    let style = command.get_styles();
    let (header, literal) = (style.get_header(), style.get_literal());
    let mut text = "{about}\n\n{usage-heading} {usage}\n".to_owned();
    for (title, names) in GROUPS {
        text.push_str(&format!("\n{header}{title}:{header:#}\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {literal}{name:<12}{literal:#} {about}\n"));
        }
    }
    text + &format!("\n{header}Options:{header:#}\n{{options}}\n\n{EXAMPLES}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let mut grouped: Vec<_> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        grouped.sort_unstable();
        let command = command();
        let mut names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        names.sort_unstable();
        assert_eq!(grouped, names);
    }

    #[test]
    fn every_command_has_examples_and_is_well_formed() {
        fn walk(command: &Command) {
            let help = command.clone().render_help().to_string();
            assert!(help.contains("Example"), "{help}");
            assert!(help.contains("Usage: "), "{help}");
            command.get_subcommands().for_each(walk);
        }
        let mut command = command();
        command.build();
        command.clone().debug_assert();
        walk(&command);
    }
}
