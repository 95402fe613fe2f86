//! Holds slow connections: the bench's own process in another role. It says once a second how many are open.

use std::{
    io::{self, Write as _, stdout},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    time::{MissedTickBehavior, interval},
};

const SECOND: Duration = Duration::from_secs(1);
/// Connections being opened at the same time.
const OPENING_MAX: usize = 128;
/// Connections per source address: well below the number of ports that a system gives out.
const PER_SOURCE_MAX: u32 = 4000;

/// What a slow connection sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Style {
    /// Nothing.
    #[default]
    Silent,
    /// An HTTP/1.1 request that never ends, one byte a second.
    DripHttp,
    /// HTTP/2 that never comes to a request, one byte a second.
    DripHttp2,
}

impl Style {
    /// Its name for `--style`.
    pub fn name(self) -> &'static str {
        match self {
            Style::Silent => "silent",
            Style::DripHttp => "drip-http",
            Style::DripHttp2 => "drip-http2",
        }
    }

    /// The byte to send `index` seconds after the connection was opened.
    fn byte(self, index: usize) -> Option<u8> {
        // The preface, an empty SETTINGS frame, and the head of a HEADERS frame of 16 KiB whose content never comes.
        const HTTP2: &[u8] =
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\x40\0\x01\x04\0\0\0\x01";
        const HTTP: &[u8] = b"GET /nomad/v1/objects/slow HTTP/1.1\r\nx-slow: ";
        match self {
            Style::Silent => None,
            Style::DripHttp => Some(HTTP.get(index).copied().unwrap_or(b'x')),
            Style::DripHttp2 => Some(HTTP2.get(index).copied().unwrap_or(0)),
        }
    }
}

/// The hidden flags by which the bench starts itself as the holder.
#[derive(Debug, Clone, Args)]
pub struct HoldArgs {
    /// Hold slow connections to this address instead of measuring.
    #[arg(long, hide = true)]
    pub hold: Option<SocketAddr>,
    /// What they send.
    #[arg(long, hide = true, value_enum, default_value_t)]
    pub style: Style,
}

/// What the holder says each second.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Held {
    /// Connections open now.
    pub open: u32,
    /// Connections that could not be opened, since the start.
    pub refused: u64,
    /// Connections that the server has closed, since the start.
    pub closed: u64,
}

#[derive(Default)]
struct Counts {
    open: AtomicU32,
    refused: AtomicU64,
    closed: AtomicU64,
}

/// Holds `count` connections to `address` until nobody reads what it says any more.
pub async fn hold(address: SocketAddr, style: Style, count: u32) -> Result<()> {
    ensure!(address.ip().is_loopback(), "{address} is not a loopback address");
    let (counts, opening) = (Arc::new(Counts::default()), Arc::new(Semaphore::new(OPENING_MAX)));
    for index in 0..count {
        let (counts, opening) = (Arc::clone(&counts), Arc::clone(&opening));
        tokio::spawn(hold_one(address, source(index), style, counts, opening));
    }
    let mut ticks = interval(SECOND);
    loop {
        ticks.tick().await;
        let held = Held {
            open: counts.open.load(Relaxed),
            refused: counts.refused.load(Relaxed),
            closed: counts.closed.load(Relaxed),
        };
        let line = serde_json::to_string(&held)?;
        writeln!(stdout(), "{line}").context("nobody reads what the holder says")?;
    }
}

/// The loopback address that connection `index` comes from.
fn source(index: u32) -> Ipv4Addr {
    let host = u8::try_from(index / PER_SOURCE_MAX).map_or(u8::MAX, |host| host.saturating_add(1));
    Ipv4Addr::new(127, 0, 0, host)
}

async fn hold_one(
    address: SocketAddr,
    source: Ipv4Addr,
    style: Style,
    counts: Arc<Counts>,
    opening: Arc<Semaphore>,
) {
    loop {
        let opened = {
            let _permit = opening.acquire().await;
            open(address, source).await
        };
        match opened {
            Ok(stream) => {
                counts.open.fetch_add(1, Relaxed);
                stay(stream, style).await;
                counts.open.fetch_sub(1, Relaxed);
                counts.closed.fetch_add(1, Relaxed);
            }
            Err(_) => {
                counts.refused.fetch_add(1, Relaxed);
            }
        }
        tokio::time::sleep(SECOND).await;
    }
}

async fn open(address: SocketAddr, source: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    socket.connect(address).await
}

/// Stays connected until the server closes the connection.
async fn stay(mut stream: TcpStream, style: Style) {
    let mut ticks = interval(SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut answer = [0; 256];
    let mut sent = 0;
    loop {
        tokio::select! {
            read = stream.read(&mut answer) => {
                if !matches!(read, Ok(1..)) {
                    return;
                }
            }
            _ = ticks.tick(), if style != Style::Silent => {
                let Some(byte) = style.byte(sent) else { return };
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                sent += 1;
            }
        }
    }
}
