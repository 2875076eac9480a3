//! Settings by example, and the sample file held to them.

use super::*;

const SAMPLE: &str = include_str!("../../../../../deploy/penstock.toml");

#[test]
fn tables_and_dotted_keys_say_the_same() {
    let (mut tables, mut dotted) = (Settings::default(), Settings::default());
    tables.set_from_toml("[log]\nsegment.bytes = 4096\n").unwrap();
    dotted.set_from_toml("\"log.segment.bytes\" = 4096").unwrap();
    assert_eq!(tables.log.segment_bytes, 4096);
    assert_eq!(dotted.log.segment_bytes, 4096);
}

#[test]
fn an_unknown_key_is_refused_with_a_hint() {
    let error = Settings::default().set_from_toml("log.segment.byte = 1").unwrap_err();
    assert!(error.to_string().contains("did you mean `log.segment.bytes`"), "{error}");
}

#[test]
fn environment_overrides_what_the_file_said() {
    let mut settings = Settings::default();
    settings.set_from_toml("workers = 3\nlisten = \"127.0.0.1:1\"").unwrap();
    let environment = [("PENSTOCK_WORKERS", "5"), ("HOME", "/")];
    let pairs = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    settings.set_from_environment(pairs).unwrap();
    assert_eq!((settings.workers, settings.listen.port()), (5, 1));
}

#[test]
fn an_unknown_environment_name_is_refused() {
    let pairs = std::iter::once(("PENSTOCK_WORKRES".to_owned(), "5".to_owned()));
    assert!(Settings::default().set_from_environment(pairs).is_err());
}

#[test]
fn every_documented_key_is_known() {
    for (key, _) in KEYS {
        let outcome = Settings::default().set(key, "\0");
        assert!(!matches!(outcome, Err(SettingError::Unknown { .. })), "{key}");
    }
}

#[test]
fn a_shortest_session_above_the_longest_is_refused_whichever_is_set_first() {
    let mut settings = Settings::default();
    settings.set("group.min.session.timeout.ms", "1800001").unwrap();
    let error = settings.check().unwrap_err();
    assert!(error.to_string().contains("is 1800001 and"), "{error}");
    settings.set("group.max.session.timeout.ms", "1800001").unwrap();
    settings.check().unwrap();
}

/// deploy/penstock.toml with each setting's line uncommented.
fn sample_with_every_line() -> String {
    let lines = SAMPLE.lines();
    lines
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .fold(String::new(), |text, line| text + line + "\n")
}

#[test]
fn the_sample_file_changes_nothing_and_has_every_key_with_its_default() {
    let mut untouched = Settings::default();
    untouched.set_from_toml(SAMPLE).unwrap();
    assert_eq!(format!("{untouched:?}"), format!("{:?}", Settings::default()));

    let text = sample_with_every_line();
    for (key, _) in KEYS {
        assert!(text.contains(&format!("\n{key} = ")), "{key} is not in the sample");
    }
    let (mut sample, defaults) = (Settings::default(), Settings::default());
    sample.set_from_toml(&text).unwrap();
    sample.check().unwrap();
    // Settings that depend on the machine, or are off by default, have an example there.
    sample.workers = defaults.workers;
    sample.connections_max = defaults.connections_max;
    sample.advertise = None;
    sample.metrics = None;
    assert_eq!(sample.explicit.len(), KEYS.len());
    sample.explicit.clear();
    assert_eq!(format!("{sample:?}"), format!("{defaults:?}"));
}

#[test]
fn a_wildcard_listener_does_not_advertise_the_wildcard() {
    let bound = SocketAddr::from(([0, 0, 0, 0], 9092));
    assert_eq!(Settings::default().advertised(bound), ("localhost".to_owned(), 9092));
}

#[test]
fn every_setting_is_shown_as_the_text_that_sets_it() {
    let mut settings = Settings::default();
    settings.set("advertise", "[::1]:1").unwrap();
    settings.set("metrics", "127.0.0.1:2").unwrap();
    for (key, _) in KEYS {
        let text = settings.text(key).unwrap_or_else(|| panic!("{key} has no text"));
        let mut same = settings.clone();
        same.set(key, &text).unwrap();
        same.explicit = settings.explicit.clone();
        assert_eq!(format!("{same:?}"), format!("{settings:?}"), "{key} = {text}");
    }
}

#[test]
fn what_was_set_is_told_from_what_is_so_by_default() {
    let mut settings = Settings::default();
    assert!(settings.explicit.is_empty());
    settings.set("num.partitions", "1").unwrap();
    assert!(settings.set("num.partitions", "0").is_err());
    assert!(settings.set("no.such.key", "0").is_err());
    assert_eq!(settings.explicit.iter().collect::<Vec<_>>(), [&"num.partitions"]);
}
