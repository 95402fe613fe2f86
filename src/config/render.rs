//! Writes a configuration as the YAML that loads back to it.

use super::{
    Config, lines,
    load::Loaded,
    problem::{Origin, Origins},
};

impl Config {
    /// Every key with its value, as a file of the same configuration.
    pub fn to_yaml(&self) -> String {
        serde_yaml_ng::to_string(self).expect("a configuration always serialises")
    }
}

impl Loaded {
    /// The effective configuration as YAML. Each value that is not the default has a comment that says where it came from.
    pub fn to_yaml(&self) -> String {
        annotate(&self.config.to_yaml(), &self.origins)
    }
}

fn annotate(yaml: &str, origins: &Origins) -> String {
    let keys = lines::keys_by_line(yaml);
    let mut keys = keys.iter().peekable();
    let mut annotated = String::new();
    for (index, line) in yaml.lines().enumerate() {
        annotated.push_str(line);
        if let Some((_, path)) = keys.next_if(|(number, _)| *number == index + 1) {
            let origin = origins.of(path);
            if origin != Origin::Default {
                annotated.push_str(&format!(" # from {origin}"));
            }
        }
        annotated.push('\n');
    }
    annotated
}
