//! A name server of a test: it knows one name, whose IPv4 addresses can change while it runs (RFC 1035, UDP, no
//! compression in questions, no extensions). Any other name does not exist.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use super::place::Place;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;

#[derive(Default)]
struct Zone {
    name: String,
    addresses: Mutex<Vec<Ipv4Addr>>,
    asked: AtomicU32,
    stopped: AtomicBool,
}

/// A running name server; it stops when dropped.
pub struct NameServer(Arc<Zone>);

impl NameServer {
    /// Serves `name` at `at`, from this place.
    pub async fn start(place: &Place, at: SocketAddr, name: &str) -> Self {
        let zone = Arc::new(Zone { name: name.to_owned(), ..Zone::default() });
        let socket = place.run(move || UdpSocket::bind(at)).await.unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let serving = Arc::clone(&zone);
        std::thread::spawn(move || serve(&socket, &serving));
        Self(zone)
    }

    /// The addresses that it answers from now on.
    pub fn set(&self, addresses: impl IntoIterator<Item = Ipv4Addr>) {
        *self.0.addresses.lock().unwrap() = addresses.into_iter().collect();
    }

    /// How often it was asked for addresses of its name.
    pub fn asked(&self) -> u32 {
        self.0.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
    }
}

fn serve(socket: &UdpSocket, zone: &Zone) {
    let mut buffer = [0; 1500];
    while !zone.stopped.load(Ordering::Relaxed) {
        let (count, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        if let Some(reply) = answer(&buffer[..count], zone) {
            let _ = socket.send_to(&reply, from);
        }
    }
}

/// The reply to one packet; `None` for what is no question.
fn answer(packet: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let (mut at, mut labels) = (HEADER, Vec::new());
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
    let question = packet.get(HEADER..at + 4)?;
    let known = labels.join(".") == zone.name;
    let mut addresses = Vec::new();
    if known && kind == TYPE_A {
        zone.asked.fetch_add(1, Ordering::Relaxed);
        addresses.clone_from(&zone.addresses.lock().unwrap());
    }
    let mut reply = packet.get(..2)?.to_vec();
    // An answer with authority, recursion as asked; "no such name" for others.
    reply.extend([0x85, if known { 0x80 } else { 0x83 }]);
    for count in [1, u16::try_from(addresses.len()).ok()?, 0, 0] {
        reply.extend(count.to_be_bytes());
    }
    reply.extend(question);
    for address in addresses {
        // The name of the question, type A, class IN, to be kept for one second, four bytes.
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}
