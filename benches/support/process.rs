//! A child process that is killed when its handle is dropped, and whose output lines can be waited for.

use std::{
    io::{BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};

/// Output lines that nobody has waited for yet; later ones are dropped, so that a talkative child is never blocked.
const LINES_MAX: usize = 1024;

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts `command` with its input and output connected to us; its errors go where ours go.
    pub fn start(name: &str, mut command: Command) -> Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let (send, lines) = sync_channel(LINES_MAX);
        let stdout = child.stdout.take().context("the child's output is not connected")?;
        thread::spawn(move || read_lines(BufReader::new(stdout), &send));
        let stdin = child.stdin.take();
        Ok(Process { name: name.to_owned(), child, stdin, lines })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns what `parse` makes of the first line that it accepts. Waits at most `limit` for each line.
    pub fn wait_for<T>(&mut self, limit: Duration, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        let mut last = String::new();
        loop {
            match self.lines.recv_timeout(limit) {
                Ok(line) => match parse(&line) {
                    Some(found) => return Ok(found),
                    None => last = line,
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "{} said nothing useful for {limit:?}; its last line: {last:?}",
                        self.name
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("{} ended ({status}); its last line: {last:?}", self.name)
                }
            }
        }
    }

    /// Sends one line to the child.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().ok_or_else(|| anyhow!("{} takes no input", self.name))?;
        writeln!(stdin, "{line}")?;
        stdin.flush().with_context(|| format!("{} has closed its input", self.name))
    }

    /// Drops the lines that nobody has waited for.
    pub fn forget_lines(&mut self) {
        while self.lines.try_recv().is_ok() {}
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A child that has already ended is what is wanted, so both results say nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(output: impl std::io::BufRead, send: &SyncSender<String>) {
    for line in output.lines() {
        let Ok(line) = line else { break };
        if let Err(TrySendError::Disconnected(_)) = send.try_send(line) {
            break;
        }
    }
}
