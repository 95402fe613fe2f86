//! A small network of its own for a test: hosts are network namespaces, switches are namespaces with one bridge, cables
//! are veth pairs. Nothing of it is in the machine's own network, so nothing there can disturb it or be disturbed.
//!
//! Multicast works as on a LAN. A cable can be cut (the host sees it), a trunk between two switches can be cut (nobody sees
//! it: packets are lost), and two hosts can be made deaf to each other alone. Everything is removed when the `Lab` is
//! dropped; if the test process is killed, a small watchdog removes it.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{place::Place, say};

/// The network of every lab; labs do not see each other.
const PREFIX: [u8; 3] = [10, 99, 7];

/// Runs `ip` and fails the test when it fails.
#[track_caller]
fn ip(args: &str) -> String {
    try_ip(args).unwrap_or_else(|error| panic!("ip {args}: {error}"))
}

fn try_ip(args: &str) -> Result<String, String> {
    let output = Command::new("ip").args(args.split_whitespace()).output();
    let output = output.map_err(|error| format!("ip cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// A set of namespaces with names of their own.
pub struct Lab {
    prefix: String,
    watchdog: Child,
}

impl Lab {
    /// A lab, or `None` after saying why there can be none here. With `NOMAD_REQUIRE_NETNS` set, that is a failure.
    pub fn new(test: &str) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("nomad-{}-{number}-", std::process::id());
        let lab = Self { watchdog: watchdog(&prefix), prefix };
        let Err(reason) = lab.probe() else { return Some(lab) };
        let said = format!("{test} is SKIPPED, no network namespaces here: {reason}");
        assert!(std::env::var_os("NOMAD_REQUIRE_NETNS").is_none(), "{said}");
        say(&said);
        None
    }

    /// Whether `ip` is there, and the kernel lets this user make a namespace, a bridge and a cable.
    fn probe(&self) -> Result<(), String> {
        try_ip("-V").map_err(|error| format!("{error} (install iproute2)"))?;
        let name = format!("{}probe", self.prefix);
        try_ip(&format!("netns add {name}"))?;
        let made = try_ip(&format!("-n {name} link add br0 type bridge"))
            .and_then(|_| try_ip(&format!("-n {name} link add veth0 type veth peer name veth1")));
        ip(&format!("netns del {name}"));
        made.map(drop)
    }

    fn namespace(&self, name: &str) -> String {
        let full = format!("{}{name}", self.prefix);
        ip(&format!("netns add {full}"));
        ip(&format!("-n {full} link set lo up"));
        full
    }

    /// A machine with no network but its loopback.
    pub fn island(&self, name: &str) -> Place {
        Place::namespace(&self.namespace(name))
    }

    /// A switch with no cables.
    pub fn switch(&self, name: &str) -> Switch {
        let namespace = self.namespace(name);
        ip(&format!("-n {namespace} link add br0 type bridge mcast_snooping 0 forward_delay 0"));
        ip(&format!("-n {namespace} link set br0 up"));
        Switch { namespace }
    }

    /// A machine with the address `.number`, with a cable to `switch`.
    pub fn host(&self, switch: &Switch, number: u8) -> Host {
        let namespace = self.namespace(&format!("h{number}"));
        let port = format!("p{number}");
        let [a, b, c] = PREFIX;
        let address = Ipv4Addr::new(a, b, c, number);
        let there = &switch.namespace;
        ip(&format!("-n {there} link add {port} type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {there} link set {port} master br0 up"));
        ip(&format!("-n {namespace} addr add {address}/24 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        ip(&format!("-n {namespace} route add default dev eth0"));
        let place = Place::namespace(&namespace);
        Host { place, address, namespace, switch: there.clone(), port }
    }

    /// A cable between two switches.
    pub fn trunk(&self, one: &Switch, two: &Switch) -> Trunk {
        let (one, two) = (&one.namespace, &two.namespace);
        ip(&format!("-n {one} link add trunk type veth peer name trunk netns {two}"));
        for namespace in [one, two] {
            ip(&format!("-n {namespace} link set trunk master br0 up"));
        }
        Trunk { namespace: one.clone() }
    }
}

/// Removes the namespaces when this process ends, also after a kill: then the standard input of the watchdog closes.
fn watchdog(prefix: &str) -> Child {
    let script = r#"read -r _
        for file in /run/netns/"$1"*; do [ -e "$file" ] && ip netns del "${file##*/}"; done
        rm -rf /etc/netns/"$1"*"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", prefix]).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// The entries of `dir` whose name starts with `prefix`.
fn named(dir: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    ours.map(|entry| entry.path()).collect()
}

impl Drop for Lab {
    fn drop(&mut self) {
        for file in named("/run/netns", &self.prefix) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let _ = try_ip(&format!("netns del {name}"));
        }
        for dir in named("/etc/netns", &self.prefix) {
            let _ = fs::remove_dir_all(dir);
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

/// A switch.
pub struct Switch {
    namespace: String,
}

/// A cable between two switches.
pub struct Trunk {
    namespace: String,
}

impl Trunk {
    /// Loses every packet from now on. The hosts notice nothing: their own cables are whole.
    pub fn cut(&self) {
        ip(&format!("-n {} link set trunk down", self.namespace));
    }

    /// Carries packets again.
    pub fn heal(&self) {
        ip(&format!("-n {} link set trunk up", self.namespace));
    }
}

/// A machine on a switch.
pub struct Host {
    /// Where its processes run.
    pub place: Place,
    /// Its address.
    pub address: Ipv4Addr,
    namespace: String,
    switch: String,
    port: String,
}

impl Host {
    /// Cuts its cable, at the switch.
    pub fn cut(&self) {
        ip(&format!("-n {} link set {} down", self.switch, self.port));
    }

    /// Connects the cable again.
    pub fn heal(&self) {
        ip(&format!("-n {} link set {} up", self.switch, self.port));
    }

    /// From now on packets between these two hosts are lost; all others arrive.
    pub fn cut_from(&self, other: &Self) {
        for (from, to) in [(self, other), (other, self)] {
            // A hardware address that no host has.
            ip(&format!(
                "-n {} neigh replace {} lladdr 02:00:00:00:00:fe dev eth0 nud permanent",
                from.namespace, to.address
            ));
        }
    }

    /// The two hosts reach each other again.
    pub fn heal_to(&self, other: &Self) {
        for (from, to) in [(self, other), (other, self)] {
            ip(&format!("-n {} neigh del {} dev eth0", from.namespace, to.address));
        }
    }

    /// Makes its processes use the name server at this address, and no other.
    pub fn name_server(&self, server: Ipv4Addr) {
        let dir = Path::new("/etc/netns").join(&self.namespace);
        fs::create_dir_all(&dir).unwrap();
        let text = format!("nameserver {server}\noptions timeout:1 attempts:2\n");
        fs::write(dir.join("resolv.conf"), text).unwrap();
    }

    /// Bytes and packets that it has sent over its cable.
    pub fn sent(&self) -> (u64, u64) {
        let shown = ip(&format!("-n {} -s -j link show dev eth0", self.namespace));
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let sent = &shown[0]["stats64"]["tx"];
        (sent["bytes"].as_u64().unwrap(), sent["packets"].as_u64().unwrap())
    }
}
