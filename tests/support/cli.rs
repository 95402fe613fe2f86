//! Runs the command line as a user does, and keeps its output.

use std::{
    path::Path,
    process::{Command as StdCommand, Stdio},
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{
    ANSWER_LIMIT,
    node::{Node, clean},
    within,
};

/// One run of the program, being prepared.
pub struct Run {
    command: StdCommand,
    stdin: Option<Vec<u8>>,
    name: String,
}

/// The result of a run.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; -1 for a death by signal.
    pub code: i32,
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// All of standard error.
    pub stderr: String,
}

/// Prepares `nomad args...`.
pub fn nomad<'a>(args: impl IntoIterator<Item = &'a str>) -> Run {
    let args: Vec<_> = args.into_iter().collect();
    let mut command = StdCommand::new(env!("CARGO_BIN_EXE_nomad"));
    clean(&mut command).args(&args).current_dir(std::env::temp_dir());
    if args.first() == Some(&"start") {
        // As for every node of a test: it must not find the nodes of other tests.
        command.env("BOOTSTRAP_MDNS", "false");
    }
    Run { command, stdin: None, name: format!("nomad {}", args.join(" ")) }
}

impl Run {
    /// Talks to this node, found by its REST address.
    pub fn on(mut self, node: &Node) -> Self {
        self.command.args(["--url", &format!("http://{}", node.rest)]);
        self
    }

    /// Gives standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in this directory.
    pub fn cwd(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// The command, for a test that wants to read while it runs. Killed when dropped.
    pub fn into_command(self) -> Command {
        let mut command = Command::from(self.command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub async fn run(mut self) -> Ran {
        let (name, stdin) = (self.name.clone(), self.stdin.take());
        let mut command = self.into_command();
        if stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        if let Some(bytes) = stdin {
            let mut pipe = child.stdin.take().unwrap();
            pipe.write_all(&bytes).await.unwrap();
        }
        let output = within(&name, ANSWER_LIMIT, child.wait_with_output()).await.unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it and asserts exit code 0.
    pub async fn ok(self) -> Ran {
        let name = self.name.clone();
        let ran = self.run().await;
        assert_eq!(ran.code, 0, "{name}: {}{}", ran.text(), ran.stderr);
        ran
    }

    /// Runs it, asserts this exit code and an empty standard output, and returns the error text.
    pub async fn fails(self, code: i32) -> String {
        let name = self.name.clone();
        let ran = self.run().await;
        let said = ran.everything();
        assert_eq!(ran.code, code, "{name}: {said}");
        assert!(!said.trim().is_empty(), "{name}: exit {code} without a word");
        assert!(!said.contains("panicked at"), "{name}: {said}");
        said
    }
}

impl Ran {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in: {}", self.text()))
    }

    /// Both streams as one text.
    pub fn everything(&self) -> String {
        format!("{}{}", self.text(), self.stderr)
    }
}
