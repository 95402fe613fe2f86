//! Three NATS servers with a JetStream key-value bucket of three replicas, and a client of the few messages that are needed.
//!
//! A put is acknowledged when a majority of the replicas has it in memory or on the way to the disk: the servers sync every
//! two minutes, so a power cut can lose what was acknowledged. A get may be answered by any replica, and may be old.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
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

const CREATE: &str = "$JS.API.STREAM.CREATE.KV_bench";
const GET: &str = "$JS.API.DIRECT.GET.KV_bench.$KV.bench.";
const PUT: &str = "$KV.bench.";

/// Three servers with the bucket.
pub struct Nats {
    _servers: Vec<Process>,
    ports: [u16; 3],
}

impl Nats {
    /// Starts them with their data under `dir`; `None` when the program is not there.
    pub async fn start(programs: &Programs, dir: &Path) -> Result<Option<Self>> {
        let ports = free_ports::<3>()?;
        let routes = free_ports::<3>()?;
        let all: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut servers = Vec::new();
        for (number, (port, route)) in ports.iter().zip(&all).enumerate() {
            let name = format!("nats-{number}");
            let Some(mut command) = programs.command("nats-server") else { return Ok(None) };
            command.args(["--name", &name, "--addr", "127.0.0.1", "--port", &port.to_string()]);
            command.args(["--jetstream", "--store_dir", "data", "--cluster_name", "bench"]);
            command.args(["--cluster", route, "--routes", &all.join(",")]);
            servers.push(start(&name, command, &subdir(dir, &name)?)?);
        }
        let config = json!({
            "name": "KV_bench", "subjects": ["$KV.bench.>"], "num_replicas": 3, "storage": "file",
            "retention": "limits", "discard": "new", "max_msgs_per_subject": 1, "max_consumers": -1,
            "max_msgs": -1, "max_bytes": -1, "max_age": 0, "allow_direct": true,
            "allow_rollup_hdrs": true, "deny_delete": true,
        });
        let config = config.to_string();
        let [first, ..] = ports;
        until("the bucket of NATS", async || {
            let mut client = NatsClient::connect(first).await?;
            let answer = client.ask(CREATE, "", config.as_bytes()).await?;
            let answer: serde_json::Value = serde_json::from_slice(&answer)?;
            // Of several tries the first one may have made it.
            let is_there =
                |error: &serde_json::Value| error.get("err_code") == Some(&json!(10_058));
            if answer.get("error").is_some_and(|error| !is_there(error)) {
                bail!("{answer}");
            }
            client
                .call(Request { kind: Kind::Update, key: "ready".into(), value: "yes".into() })
                .await
        })
        .await?;
        Ok(Some(Self { _servers: servers, ports }))
    }

    /// So many clients, each on a connection of its own, of one server or of all.
    pub async fn clients(&self, count: usize, spread: bool) -> Result<Vec<NatsClient>> {
        let wanted = if spread { self.ports.len() } else { 1 };
        let mut clients = Vec::new();
        for port in self.ports.iter().take(wanted).cycle().take(count) {
            clients.push(NatsClient::connect(*port).await?);
        }
        Ok(clients)
    }
}

/// One worker's client. A connection has one request at a time, so that one inbox is enough.
pub struct NatsClient {
    stream: BufReader<TcpStream>,
    inbox: String,
}

impl NatsClient {
    async fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let inbox = format!("_INBOX.{:x}", rand::random::<u128>());
        let mut client = Self { stream: BufReader::new(stream), inbox };
        expect(&client.line().await?, "INFO")?;
        let options = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "protocol": 1, "lang": "rust", "version": "0", "name": "bench",
        });
        let hello = format!("CONNECT {options}\r\nSUB {} 1\r\nPING\r\n", client.inbox);
        client.stream.get_mut().write_all(hello.as_bytes()).await?;
        expect(&client.line().await?, "PONG")?;
        Ok(client)
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            bail!("nats closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Publishes to `subject` and `key`, and gives the body of the answer.
    async fn ask(&mut self, subject: &str, key: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut out = format!("PUB {subject}{key} {} {}\r\n", self.inbox, body.len()).into_bytes();
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
        self.stream.get_mut().write_all(&out).await?;
        loop {
            let line = self.line().await?;
            let words: Vec<_> = line.split(' ').collect();
            match words.as_slice() {
                ["MSG", .., length] => return self.payload(0, length.parse()?).await,
                ["HMSG", .., head, length] => {
                    return self.payload(head.parse()?, length.parse()?).await;
                }
                ["PING"] => self.stream.get_mut().write_all(b"PONG\r\n").await?,
                ["PONG" | "+OK"] => {}
                [first, ..] if first.starts_with("INFO") => {}
                _ => bail!("nats says {line:?}"),
            }
        }
    }

    /// Reads a message of so many bytes; the first ones are its headers.
    async fn payload(&mut self, head: usize, length: usize) -> Result<Vec<u8>> {
        let mut message = vec![0; length + 2];
        self.stream.read_exact(&mut message).await?;
        message.truncate(length);
        let body = message.split_off(head);
        let head = String::from_utf8_lossy(&message);
        let status = head.strip_prefix("NATS/1.0 ").and_then(|rest| rest.lines().next());
        match status {
            Some(status) => bail!("nats answers {status:?}"),
            None => Ok(body),
        }
    }
}

impl Client for NatsClient {
    async fn call(&mut self, request: Request) -> Result<()> {
        if request.kind == Kind::Get {
            let value = self.ask(GET, &request.key, b"").await?;
            return if value.is_empty() { bail!("the key is not there") } else { Ok(()) };
        }
        let answer = self.ask(PUT, &request.key, &request.value).await?;
        let text = String::from_utf8(answer).context("an answer that is no text")?;
        if text.contains("\"seq\"") { Ok(()) } else { bail!("nats answers {text}") }
    }
}
