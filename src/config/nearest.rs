//! Finds what a misspelt key may have meant.

use super::{
    keys::{self, ConfigKey},
    model::Config,
};

/// The key or section nearest to an unknown dotted path; never a section that the path lies in.
pub(super) fn key_or_section(unknown: &str) -> &'static str {
    let is_around =
        |section: &str| unknown.strip_prefix(section).is_some_and(|inside| inside.starts_with('.'));
    let sections = keys::sections().into_iter().filter(|section| !is_around(section));
    let paths = Config::keys().iter().map(|key| key.path).chain(sections);
    let unknown = fold(unknown);
    paths
        .min_by_key(|path| (unlikeness(&unknown, &fold(path)), path.len()))
        .expect("the table of keys is not empty")
}

/// How many letters are wrong; a right name in the wrong section, or half a name in the right one, is nearer than its
/// letters say.
fn unlikeness(unknown: &str, known: &str) -> usize {
    let (unknown_section, unknown_name) = unknown.rsplit_once('.').unwrap_or(("", unknown));
    let (section, name) = known.rsplit_once('.').unwrap_or(("", known));
    let letters = distance(unknown_name, name);
    let is_half = unknown_name.len() >= 4 && name.contains(unknown_name);
    let in_section = match unknown_section == section {
        true if is_half => letters.min(2),
        true => letters,
        false if letters <= name.len() / 4 => letters * 2 + 1,
        false => usize::MAX,
    };
    in_section.min(distance(unknown, known))
}

/// The key of this section whose environment variable is nearest to a name, and how many letters are wrong.
pub(super) fn variable(name: &str, section: &str) -> (usize, &'static ConfigKey) {
    let bare = |text: &str| fold(text).replace('.', "");
    let name = bare(name);
    Config::keys()
        .iter()
        .filter(|key| key.path.starts_with(section))
        .map(|key| (distance(&name, &bare(key.path)), key))
        .min_by_key(|(letters, _)| *letters)
        .expect("a section has keys")
}

/// Case, `_` and `-` are the usual slips.
fn fold(path: &str) -> String {
    path.chars().filter(|letter| !"_-".contains(*letter)).flat_map(char::to_lowercase).collect()
}

/// How many letters to insert, delete or replace.
fn distance(from: &str, to: &str) -> usize {
    // Longer texts are no slips, and the time is the product of the lengths.
    if from.len() > 128 { from.len() } else { strsim::levenshtein(from, to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_key() {
        for (unknown, meant) in [
            ("node.maxPeer", "node.maxPeers"),
            ("node.max_peers", "node.maxPeers"),
            ("maxPeers", "node.maxPeers"),
            ("node.replicationFactor", "node.storage.replicationFactor"),
            ("node.storage.replication-factor", "node.storage.replicationFactor"),
            ("node.storage.mode", "node.storage.storageMode"),
            ("storage", "node.storage"),
            ("Node", "node"),
            ("shedule", "schedule"),
            ("node.lisen", "node.listen"),
            ("node.x", "node.position.x"),
            ("schedule.repairs", "schedule.repair"),
            ("limits.headTimeout", "limits.headerTimeout"),
        ] {
            assert_eq!(key_or_section(unknown), meant, "{unknown}");
        }
    }

    #[test]
    fn a_hopeless_name_still_gets_an_answer() {
        assert!(!key_or_section(&"x".repeat(10_000)).is_empty());
    }
}
