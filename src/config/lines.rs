//! Finds the line numbers of keys in a YAML text, because the parser does not report them.
//!
//! It knows block style (one key per line, deeper means inside), which is how configurations are written. A key that it
//! cannot find has no line number. Only messages use the numbers.

/// The dotted path of the key on each line, with the line's number counted from 1.
pub(super) fn keys_by_line(yaml: &str) -> Vec<(usize, String)> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut found = Vec::new();
    for (index, line) in yaml.lines().enumerate() {
        let Some((indent, name)) = key_on(line) else { continue };
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, name));
        let names: Vec<&str> = open.iter().map(|(_, name)| *name).collect();
        found.push((index + 1, names.join(".")));
    }
    found
}

/// The line of a key, or of the innermost section around it that has one.
pub(super) fn line_of(lines: &[(usize, String)], path: &str) -> Option<usize> {
    let mut path = path;
    loop {
        if let Some((line, _)) = lines.iter().find(|(_, key)| key == path) {
            return Some(*line);
        }
        path = path.rsplit_once('.')?.0;
    }
}

/// The indentation and the name when the line opens with a key.
fn key_on(line: &str) -> Option<(usize, &str)> {
    let text = line.trim_start_matches(' ');
    let (name, rest) = text.split_once(':')?;
    let ends = rest.is_empty() || rest.starts_with([' ', '\t', '\r']);
    let plain = !name.is_empty() && !name.starts_with(['#', '-', '{', '[']);
    let name = name.trim_end().trim_matches(['"', '\'']);
    (ends && plain).then_some((line.len() - text.len(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "# node: comment\nnode:\n    maxPeers: 5 # five\n    storage:\n        \"storageMode\": safe\n    world: { height: 1 }\n\nschedule:\n  repair: 20s\nbootstrap:\n  peers:\n  - a:1\n  mdns: true\n";

    #[test]
    fn keys_are_found_with_their_sections() {
        let found = keys_by_line(YAML);
        let expected = [
            (2, "node"),
            (3, "node.maxPeers"),
            (4, "node.storage"),
            (5, "node.storage.storageMode"),
            (6, "node.world"),
            (8, "schedule"),
            (9, "schedule.repair"),
            (10, "bootstrap"),
            (11, "bootstrap.peers"),
            (13, "bootstrap.mdns"),
        ];
        let expected: Vec<_> = expected.map(|(line, path)| (line, path.to_owned())).into();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_key_inside_a_flow_mapping_has_the_line_of_its_section() {
        let found = keys_by_line(YAML);
        assert_eq!(line_of(&found, "node.world.height"), Some(6));
        assert_eq!(line_of(&found, "schedule.repair"), Some(9));
        assert_eq!(line_of(&found, "trace.records"), None);
    }
}
