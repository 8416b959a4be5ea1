//! Settings of the proxy. The input is a list of lines `NAME=VALUE`, with or without prefix.

use std::collections::BTreeMap;

use hauberk_model::settings::{PREFIX, SETTINGS, find, value};
use hauberk_proxy::settings::read;

pub(crate) fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut environment = BTreeMap::new();
    for line in text.lines() {
        let (name, value) = line.split_once('=').unwrap_or(("", line));
        let prefix = if name.starts_with(PREFIX) { "" } else { PREFIX };
        environment.insert(format!("{prefix}{name}"), value.to_owned());
        reads_what_it_writes(value);
    }
    match read(&environment, 4) {
        Ok(_) => {
            let known = environment.iter().filter(|(_, value)| !value.is_empty());
            for (setting, value) in known.filter_map(|(name, value)| Some((find(name)?, value))) {
                let _ = setting.form.check(value);
            }
        }
        Err(problems) => {
            assert!(!problems.0.is_empty(), "refused without a reason");
            assert!(problems.0.len() <= 2 * SETTINGS.len());
        }
    }
}

fn reads_what_it_writes(text: &str) {
    for setting in SETTINGS {
        if let Err(bad) = setting.form.check(text) {
            assert!(bad.got.len() <= text.len().max(1), "{bad}");
        }
    }
    if let Ok(duration) = value::duration(text) {
        assert_eq!(value::duration(&value::format_duration(duration)), Ok(duration), "{text:?}");
    }
    if let Ok(address) = value::address(text) {
        assert_eq!(value::address(&address.to_string()), Ok(address), "{text:?}");
    }
    if let Ok(ports) = value::ports(text) {
        assert_eq!(value::ports(&ports.to_string()), Ok(ports), "{text:?}");
    }
    if let Ok(suffixes) = value::suffixes(text) {
        let lower = value::suffixes(&text.to_ascii_lowercase());
        assert_eq!(lower, Ok(suffixes), "case does not matter");
    }
}
