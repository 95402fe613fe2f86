//! The documents match the code and each other: the table of keys, the links, the map, the glossary.

use std::{collections::BTreeSet, fs, path::PathBuf};

use nomad_config::key_table_markdown;

use crate::root;

/// The documents that people read: those at the root, and all in `docs/`.
fn documents() -> Vec<PathBuf> {
    let dirs = [root(), root().join("docs"), root().join("benches")];
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap());
    let mut found: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    found.sort();
    found
}

#[test]
fn the_documents_list_every_key_as_the_code_knows_it() {
    let path = root().join("docs/configuration.md");
    let document = fs::read_to_string(&path).unwrap();
    let (before, rest) = document.split_once("<!-- keys -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- /keys -->").unwrap();
    let expected = format!("\n{}\n", key_table_markdown());
    if std::env::var_os("NOMAD_UPDATE_DOCUMENTS").is_some() && table != expected {
        let updated = format!("{before}<!-- keys -->\n{expected}<!-- /keys -->{after}");
        fs::write(path, updated).unwrap();
        return;
    }
    assert!(table == expected, "run NOMAD_UPDATE_DOCUMENTS=1 cargo test --test tree");
}

/// The anchors of a document's headings, as code hosts make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            let leads = target.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&target).unwrap()).contains(anchor));
            if !leads {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A file is named by its path from the root, and `name()` is a function of the file named last before it. `NAME` stands for
/// what somebody is going to add.
#[test]
fn the_map_names_files_and_functions_that_are_there() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let prose = text.split("```").step_by(2);
    let (mut file, mut count, mut wrong) = (("", String::new()), 0, Vec::new());
    for name in prose.flat_map(|part| part.split('`').skip(1).step_by(2)) {
        if let Some(function) = name.strip_suffix("()") {
            let (path, code) = &file;
            if !["(", "<"].iter().any(|end| code.contains(&format!("fn {function}{end}"))) {
                wrong.push(format!("{path} has no function {function}"));
            }
        } else if ["src/", "tests/"].iter().any(|room| name.starts_with(room))
            && !name.contains("NAME")
        {
            if !root().join(name).exists() {
                wrong.push(format!("there is no {name}"));
            }
            file = (name, fs::read_to_string(root().join(name)).unwrap_or_default());
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_glossary_has_one_row_per_word() {
    let text = fs::read_to_string(root().join("actors.md")).unwrap();
    let glossary = text.split_once("## Glossary").unwrap().1;
    let rows = glossary.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let words: Vec<_> = rows.map(|(word, _)| word).filter(|word| *word != "word").collect();
    assert!(words.len() > 30, "{words:?}");
    let mut seen = BTreeSet::new();
    let twice: Vec<_> = words.iter().filter(|word| !seen.insert(**word)).collect();
    assert!(twice.is_empty(), "{twice:?}");
}
