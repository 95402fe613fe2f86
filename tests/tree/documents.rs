//! The documents match the code: the README's table of keys.

use nomad_config::key_table_markdown;

#[test]
fn the_readme_lists_every_key_as_the_code_knows_it() {
    let path = crate::root().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once("<!-- keys -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- /keys -->").unwrap();
    let expected = format!("\n{}\n", key_table_markdown());
    if std::env::var_os("NOMAD_UPDATE_DOCUMENTS").is_some() && table != expected {
        let updated = format!("{before}<!-- keys -->\n{expected}<!-- /keys -->{after}");
        std::fs::write(path, updated).unwrap();
        return;
    }
    assert!(table == expected, "run NOMAD_UPDATE_DOCUMENTS=1 cargo test --test tree");
}
