//! A Redis server with two replicas, each with `appendfsync always`, and a client that waits for one of the replicas.
//!
//! A write is acknowledged when the first server has it on disk and one replica has received it. Replication is asynchronous
//! all the same: there is no quorum that reads, or an election, would have to ask, so a failover can lose it.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{
    Programs, expect, free_ports,
    load::{Client, Kind, Request},
    start, subdir, until,
};
use crate::support::process::Process;

/// How long a write waits for a replica.
const WAIT: Duration = Duration::from_secs(5);

/// A server and its replicas.
pub struct Redis {
    _servers: Vec<Process>,
    first: u16,
}

impl Redis {
    /// Starts them with their data under `dir`; `None` when the program is not there.
    pub async fn start(programs: &Programs, dir: &Path) -> Result<Option<Self>> {
        let ports = free_ports::<3>()?;
        let [first, ..] = ports;
        let mut servers = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            let name = format!("redis-{number}");
            let Some(mut command) = programs.command("redis-server") else { return Ok(None) };
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(["--appendonly", "yes", "--appendfsync", "always", "--daemonize", "no"]);
            command.args(["--logfile", "redis.log", "--dir", "."]);
            if number > 0 {
                command.args(["--replicaof", "127.0.0.1", &first.to_string()]);
            }
            servers.push(start(&name, command, &subdir(dir, &name)?)?);
        }
        until("two replicas of redis", async || {
            let mut client = RedisClient::connect(first).await?;
            client.send(&[b"SET", b"ready", b"yes"]).await?;
            client.send(&[b"WAIT", b"2", b"1000"]).await?;
            client.flush().await?;
            expect(&client.line().await?, "+OK")?;
            expect(&client.line().await?, ":2")
        })
        .await?;
        Ok(Some(Self { _servers: servers, first }))
    }

    /// So many clients of the first server, each on a connection of its own, as Redis wants it.
    pub async fn clients(&self, count: usize) -> Result<Vec<RedisClient>> {
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(RedisClient::connect(self.first).await?);
        }
        Ok(clients)
    }
}

/// One worker's client.
pub struct RedisClient {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
}

impl RedisClient {
    async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), out: Vec::new() })
    }

    /// Appends a command to what is sent next.
    async fn send(&mut self, words: &[&[u8]]) -> Result<()> {
        self.out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
        for word in words {
            self.out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            self.out.extend_from_slice(word);
            self.out.extend_from_slice(b"\r\n");
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(&self.out).await?;
        self.out.clear();
        Ok(())
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            bail!("redis closed the connection");
        }
        Ok(line)
    }

    async fn bulk(&mut self) -> Result<Option<Bytes>> {
        let head = self.line().await?;
        let length = head.trim().strip_prefix('$').and_then(|text| text.parse::<i64>().ok());
        let length = length.with_context(|| format!("{head:?} is no value"))?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes).await?;
        bytes.truncate(length);
        Ok(Some(bytes.into()))
    }
}

impl Client for RedisClient {
    async fn call(&mut self, request: Request) -> Result<()> {
        if request.kind == Kind::Get {
            self.send(&[b"GET", request.key.as_bytes()]).await?;
            self.flush().await?;
            return match self.bulk().await? {
                Some(_) => Ok(()),
                None => bail!("the key is not there"),
            };
        }
        let wait = WAIT.as_millis().to_string();
        self.send(&[b"SET", request.key.as_bytes(), &request.value]).await?;
        self.send(&[b"WAIT", b"1", wait.as_bytes()]).await?;
        self.flush().await?;
        expect(&self.line().await?, "+OK")?;
        match self.line().await?.as_str() {
            ":1\r\n" | ":2\r\n" => Ok(()),
            other => bail!("no replica within {WAIT:?}: {other:?}"),
        }
    }
}
