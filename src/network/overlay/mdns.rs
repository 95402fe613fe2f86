//! mDNS on one interface that is known by its address. Needed above all for loopback, which libp2p's own mDNS does not use.
//!
//! The packets are those of libp2p's mDNS (`_p2p._udp.local`, specs/discovery/mdns.md), so both understand each other.
//! Answers are multicast, at most one a second; a question is asked a few times at the start, then once a minute.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    str::FromStr as _,
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{PTR, TXT},
    },
};
use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::addresses::{PER_NODE_MAX, split_peer, usable};

/// Where all of mDNS is.
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);
const SERVICE: &str = "_p2p._udp.local.";
/// How long an answer may be believed.
const TTL_S: u32 = 120;
/// The most bytes of a packet that is looked at.
const PACKET_MAX: usize = 4096;
/// Pauses between the first questions; then one a minute.
const FIRST_PAUSES: [Duration; 4] = [
    Duration::from_millis(200),
    Duration::from_millis(800),
    Duration::from_secs(2),
    Duration::from_secs(6),
];
const PAUSE: Duration = Duration::from_secs(60);
/// The shortest time between two answers (RFC 6762, section 6).
const ANSWER_PAUSE: Duration = Duration::from_secs(1);

/// A node that was heard of, and where it says it is.
pub type Heard = (PeerId, Vec<Multiaddr>);

/// mDNS on one interface.
#[derive(Debug)]
pub struct OneInterface {
    /// The interface's address.
    pub ip: Ipv4Addr,
    /// This node.
    pub me: PeerId,
    /// Where it listens.
    pub listens: watch::Receiver<Vec<Multiaddr>>,
    /// Takes who was heard of. When it is full, they are heard of again later.
    pub heard: mpsc::Sender<Heard>,
}

struct Sockets {
    receive: UdpSocket,
    send: UdpSocket,
}

impl OneInterface {
    /// Asks and answers until an error.
    ///
    /// # Errors
    /// When the operating system refuses a socket, or multicast on this interface.
    pub async fn run(&mut self) -> io::Result<()> {
        let Sockets { receive, send } = sockets(self.ip)?;
        let mut first = FIRST_PAUSES.into_iter();
        let (mut ask_at, mut answer_at) = (now(), None);
        let mut answered = None::<Instant>;
        let mut buffer = [0; PACKET_MAX];
        loop {
            let timer = answer_at.map_or(ask_at, |answer_at: Instant| answer_at.min(ask_at));
            tokio::select! {
                received = receive.recv_from(&mut buffer) => {
                    let (length, from) = received?;
                    let Some(packet) = buffer.get(..length) else { continue };
                    // Whatever comes through another interface is not for this one.
                    if length == PACKET_MAX || from.ip().is_loopback() != self.ip.is_loopback() {
                        continue;
                    }
                    match read(packet, from) {
                        Packet::Question => {
                            let free = answered.map_or(now(), |at| at + ANSWER_PAUSE);
                            answer_at.get_or_insert(free);
                        }
                        Packet::Nodes(nodes) => {
                            for (peer, addresses) in nodes {
                                if peer != self.me {
                                    let _ = self.heard.try_send((peer, addresses));
                                }
                            }
                        }
                        Packet::Other => {}
                    }
                }
                changed = self.listens.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    answer_at = Some(now());
                }
                () = sleep_until(timer) => {
                    if ask_at <= now() {
                        send.send_to(&question()?, GROUP).await?;
                        ask_at = now() + first.next().unwrap_or(PAUSE);
                    }
                    if answer_at.is_some_and(|at| at <= now()) {
                        (answer_at, answered) = (None, Some(now()));
                        let listens = self.listens.borrow_and_update().clone();
                        if !listens.is_empty() {
                            send.send_to(&answer(&self.me, &listens)?, GROUP).await?;
                        }
                    }
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "tokio's timers take tokio's time")]
fn now() -> Instant {
    Instant::now()
}

fn sockets(ip: Ipv4Addr) -> io::Result<Sockets> {
    let new = |at: SocketAddrV4| -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // All nodes of a machine, and its own mDNS service, share the port.
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from(at).into())?;
        socket.set_multicast_if_v4(&ip)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_multicast_ttl_v4(255)?;
        Ok(socket)
    };
    let receive = new(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, GROUP.port()))?;
    receive.set_multicast_all_v4(false)?;
    receive.join_multicast_v4(GROUP.ip(), &ip)?;
    let send = new(SocketAddrV4::new(ip, 0))?;
    Ok(Sockets {
        receive: UdpSocket::from_std(receive.into())?,
        send: UdpSocket::from_std(send.into())?,
    })
}

fn question() -> io::Result<Vec<u8>> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(SERVICE)?, RecordType::PTR));
    message.to_vec().map_err(io::Error::other)
}

fn answer(me: &PeerId, listens: &[Multiaddr]) -> io::Result<Vec<u8>> {
    let own = name(&format!("{me}."))?;
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    message.metadata.authoritative = true;
    let pointer = RData::PTR(PTR(own.clone()));
    message.add_answer(Record::from_rdata(name(SERVICE)?, TTL_S, pointer));
    for address in listens.iter().take(PER_NODE_MAX) {
        let text = format!("dnsaddr={address}/p2p/{me}");
        if text.len() <= 255 {
            let text = RData::TXT(TXT::new(vec![text]));
            message.add_additional(Record::from_rdata(own.clone(), TTL_S, text));
        }
    }
    message.to_vec().map_err(io::Error::other)
}

fn name(text: &str) -> io::Result<Name> {
    Name::from_str(text).map_err(io::Error::other)
}

/// What a packet is.
#[derive(Debug, PartialEq)]
enum Packet {
    Question,
    Nodes(Vec<Heard>),
    Other,
}

/// Reads a packet, which anybody may have sent.
fn read(packet: &[u8], from: SocketAddr) -> Packet {
    let (Ok(message), Ok(service)) = (Message::from_vec(packet), name(SERVICE)) else {
        return Packet::Other;
    };
    if message.metadata.message_type == MessageType::Query {
        let is_ours = message.queries.iter().any(|query| query.name() == &service);
        return if is_ours { Packet::Question } else { Packet::Other };
    }
    let mut nodes = Vec::new();
    for record in message.answers.iter().filter(|record| record.name == service).take(8) {
        let RData::PTR(PTR(own)) = &record.data else { continue };
        let texts = message.additionals.iter().filter(|record| &record.name == own);
        let texts = texts.filter_map(|record| match &record.data {
            RData::TXT(text) => Some(text.txt_data.iter()),
            _ => None,
        });
        let read = |text: &[u8]| {
            let text = std::str::from_utf8(text).ok()?.strip_prefix("dnsaddr=")?;
            let (address, peer) = split_peer(&text.parse().ok()?);
            Some((peer?, address))
        };
        let said: Vec<_> =
            texts.flatten().filter_map(|text| read(text)).take(PER_NODE_MAX).collect();
        let Some(&(peer, _)) = said.first() else { continue };
        let of_peer = said.into_iter().filter(|(of, _)| *of == peer);
        let addresses: Vec<_> = of_peer.map(|(_, address)| address).collect();
        nodes.push((peer, usable(Some(from.ip()), &addresses)));
    }
    Packet::Nodes(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> SocketAddr {
        "127.0.0.1:5353".parse().unwrap()
    }

    #[test]
    fn questions_and_answers_read_back() {
        assert_eq!(read(&question().unwrap(), here()), Packet::Question);
        let (me, address) = (PeerId::random(), "/ip4/127.0.0.1/tcp/4001".parse().unwrap());
        let packet = answer(&me, std::slice::from_ref(&address)).unwrap();
        assert_eq!(read(&packet, here()), Packet::Nodes(vec![(me, vec![address])]));
    }

    #[test]
    fn whatever_is_in_a_packet_it_is_read_without_harm() {
        let packet = answer(&PeerId::random(), &["/ip4/1.2.3.4/tcp/1".parse().unwrap()]).unwrap();
        for length in 0..packet.len() {
            read(&packet[..length], here());
            for value in [0, 0xc0, 0xff] {
                let mut broken = packet.clone();
                broken[length] = value;
                read(&broken, here());
            }
        }
        assert_eq!(read(&[0xff; PACKET_MAX], here()), Packet::Other);
    }

    fn skipped(ended: io::Result<()>) {
        let error = ended.expect_err("it only ends when the system refuses");
        eprintln!("skipped: this kernel refuses multicast on loopback: {error}");
    }

    /// Two of them on loopback hear each other by real multicast, whatever other interfaces there are.
    #[tokio::test]
    async fn on_loopback_nodes_of_one_machine_hear_each_other() {
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/4001".parse().unwrap();
        let (a, b) = (PeerId::random(), PeerId::random());
        let (_keep, listens) = watch::channel(vec![address.clone()]);
        let (heard, mut of_a) = mpsc::channel(64);
        let ip = Ipv4Addr::LOCALHOST;
        let mut first = OneInterface { ip, me: a, listens: listens.clone(), heard };
        let (heard, mut of_b) = mpsc::channel(64);
        let mut second = OneInterface { ip, me: b, listens, heard };
        let until = |heard: &mut mpsc::Receiver<Heard>, peer| {
            let expected = (peer, vec![address.clone()]);
            let heard = std::mem::replace(heard, mpsc::channel(1).1);
            async move {
                let mut heard = heard;
                while heard.recv().await.unwrap() != expected {}
            }
        };
        let both = futures::future::join(until(&mut of_a, b), until(&mut of_b, a));
        tokio::select! {
            ended = first.run() => skipped(ended),
            ended = second.run() => skipped(ended),
            met = tokio::time::timeout(Duration::from_secs(20), both) => {
                met.expect("both hear each other");
            }
        }
    }
}
