//! The plan as a shell script, in steps between which the Kafka is started and stopped. Pure.
//!
//! Topic names are harmless in a shell; everything else is quoted.

use std::fmt::Write;

use penstock_storage::PartitionName;

use super::plan::{Alteration, Commit, Creation, Plan};

const FUNCTIONS: &str = include_str!("functions.sh");

/// Groups whose offsets one command commits. Each start of Kafka's command takes seconds.
const GROUPS_A_COMMAND: usize = 50;

/// The places that the script names.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    /// The data directory, absolute.
    pub(crate) data_dir: &'a str,
    pub(crate) bootstrap_server: &'a str,
}

const SAME_KAFKA: &str = "\
# The Kafka's own metadata is in this directory: it finds the topics it knows as they are now.
#
#   1  Penstock and Kafka stopped    sh SCRIPT aside     sets aside what that Kafka would rename to *-stray
#   2  Kafka running                 sh SCRIPT create    deletes, creates and alters topics
#   3  Kafka stopped                 sh SCRIPT copy      gives the new topics their files
#   4  Kafka running                 sh SCRIPT finish    commits the groups' offsets
";

const FRESH_KAFKA: &str = "\
# For a Kafka that knows none of these topics. KAFKA_DATA is its log.dirs.
#
#   1  Kafka running    sh SCRIPT create    creates the topics
#   2  Kafka stopped    sh SCRIPT copy      gives them their files
#   3  Kafka running    sh SCRIPT finish    commits the groups' offsets
";

const HINTS: &str = "\
#
# KAFKA_BIN is the directory of kafka-topics.sh and the others, if PATH does not lead to it. Every step may be
# done again. Topics get one replica: add more when all is done.
";

/// The whole script.
pub(crate) fn script(plan: &Plan, places: &Places<'_>) -> String {
    let mut text = String::from("#!/bin/sh\n# Gives the topics of a Penstock to an Apache Kafka. ");
    text += "Made by `penstock export`.\n#\n";
    text += if plan.is_same_kafka { SAME_KAFKA } else { FRESH_KAFKA };
    text += HINTS;
    for remark in &plan.remarks {
        text += &format!("#\n# {}", remark.replace(char::is_control, " "));
    }
    text += &variables(plan, places);
    text += FUNCTIONS;
    step(&mut text, "aside", &aside(plan));
    step(&mut text, "create", &create(plan));
    step(&mut text, "copy", &copy(plan));
    step(&mut text, "finish", &finish(plan));
    text += MAIN;
    text
}

const MAIN: &str = r#"
case ${1:-} in
aside | create | copy | finish) "step_$1" ;;
*) fail 'one of aside, create, copy, finish' ;;
esac
"#;

fn variables(plan: &Plan, places: &Places<'_>) -> String {
    let (here, bootstrap) = (quoted(places.data_dir), quoted(places.bootstrap_server));
    let (data, source) = if plan.is_same_kafka { ("$HERE", "$ASIDE") } else { ("", "$HERE") };
    format!(
        "\nset -eu\nKAFKA_BIN=${{KAFKA_BIN:-}}\nBOOTSTRAP=${{BOOTSTRAP:-}}\n\
         [ -n \"$BOOTSTRAP\" ] || BOOTSTRAP={bootstrap}\n\
         HERE={here}\nASIDE=${{ASIDE:-$HERE.aside}}\nSOURCE={source}\n\
         KAFKA_DATA=${{KAFKA_DATA:-{data}}}\n\n"
    )
}

/// A shell function; one without commands does nothing.
fn step(text: &mut String, name: &str, commands: &str) {
    *text += &format!("\nstep_{name}() {{\n    :\n{commands}}}\n");
}

fn aside(plan: &Plan) -> String {
    if !plan.is_same_kafka || plan.copies.is_empty() {
        return String::new();
    }
    let names = plan.copies.iter().map(|name| format!("    set_aside {name}\n"));
    format!("    needs_stopped_kafka\n{}", names.collect::<String>())
}

fn create(plan: &Plan) -> String {
    let mut text = String::new();
    for (topic, id) in &plan.deletions {
        text += &format!("    delete_former {topic} {id}\n");
    }
    for Creation { topic, partitions, config } in &plan.creations {
        let options = "--create --if-not-exists --replication-factor 1";
        text +=
            &format!("    kafka kafka-topics {options} --topic {topic} --partitions {partitions}");
        for (key, value) in config {
            text += &format!(" \\\n        --config {}", quoted(&format!("{key}={value}")));
        }
        text.push('\n');
    }
    for (topic, partitions) in &plan.growths {
        text += &format!("    grow {topic} {partitions}\n");
    }
    for alteration in &plan.alterations {
        text += &alter(alteration);
    }
    text
}

fn alter(Alteration { topic, set, unset }: &Alteration) -> String {
    let mut text =
        format!("    kafka kafka-configs --alter --entity-type topics --entity-name {topic}");
    if !set.is_empty() {
        // Brackets keep the commas of a list together.
        let pairs: Vec<String> =
            set.iter().map(|(key, value)| format!("{key}=[{value}]")).collect();
        text += &format!(" \\\n        --add-config {}", quoted(&pairs.join(",")));
    }
    if !unset.is_empty() {
        text += &format!(" \\\n        --delete-config {}", quoted(&unset.join(",")));
    }
    text + "\n"
}

fn copy(plan: &Plan) -> String {
    if plan.copies.is_empty() {
        return String::new();
    }
    let names = plan.copies.iter().map(|name| format!("    give {name}\n"));
    format!("    needs_stopped_kafka\n{}    sync\n", names.collect::<String>())
}

fn finish(plan: &Plan) -> String {
    let mut text = String::new();
    if !plan.log_starts.is_empty() {
        text += "    # Records below these offsets were deleted within a segment.\n";
        text += "    file=$(mktemp)\n    cat >\"$file\" <<'END'\n";
        text += &deleted_records(&plan.log_starts);
        text += "END\n    kafka kafka-delete-records --offset-json-file \"$file\"\n    rm -f \"$file\"\n";
    }
    let by_group = plan.commits.chunk_by(|one, next| one.group == next.group);
    for groups in by_group.collect::<Vec<_>>().chunks(GROUPS_A_COMMAND) {
        text += &commits(groups);
    }
    text
}

fn deleted_records(log_starts: &[(PartitionName, i64)]) -> String {
    let of = |(name, offset): &(PartitionName, i64)| {
        let PartitionName { topic, partition } = name;
        format!(r#"{{"topic": "{topic}", "partition": {partition}, "offset": {offset}}}"#)
    };
    let partitions: Vec<String> = log_starts.iter().map(of).collect();
    format!("{{\"version\": 1, \"partitions\": [\n{}\n]}}\n", partitions.join(",\n"))
}

/// One command for several groups. Its file has a column for the group only if there are several.
fn commits(groups: &[&[Commit]]) -> String {
    let mut text = String::from("    commit");
    for group in groups {
        let _ = write!(text, " {}", quoted(&group[0].group));
    }
    text += " <<'END'\n";
    for Commit { group, topic, partition, offset } in groups.concat() {
        if groups.len() > 1 {
            let _ = write!(text, "\"{}\",", group.replace('"', "\"\""));
        }
        let _ = writeln!(text, "{topic},{partition},{offset}");
    }
    text + "END\n"
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use penstock_storage::TopicId;

    use super::*;

    fn commit(group: &str, offset: i64) -> Commit {
        Commit { group: group.to_owned(), topic: "t".to_owned(), partition: 0, offset }
    }

    fn plan(is_same_kafka: bool) -> Plan {
        let name = PartitionName { topic: "t".to_owned(), partition: 0 };
        let config = vec![("cleanup.policy".to_owned(), "compact,delete".to_owned())];
        Plan {
            is_same_kafka,
            deletions: vec![("gone".to_owned(), TopicId([0; 16]))],
            creations: vec![Creation {
                topic: "t".to_owned(),
                partitions: 1,
                config: config.clone(),
            }],
            growths: vec![("grown".to_owned(), 7)],
            alterations: vec![Alteration {
                topic: "altered".to_owned(),
                set: config,
                unset: vec!["segment.ms".to_owned()],
            }],
            copies: vec![name.clone()],
            log_starts: vec![(name, 5)],
            commits: vec![commit("it's \"one\"", 3), commit("two", 4)],
            remarks: vec!["a\nremark".to_owned()],
        }
    }

    fn script_of(plan: &Plan) -> String {
        script(plan, &Places { data_dir: "/a b/it's", bootstrap_server: "host:1" })
    }

    #[test]
    fn a_shell_takes_every_script() {
        for plan in [plan(true), plan(false), Plan::default()] {
            let text = script_of(&plan);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("script.sh");
            std::fs::write(&path, &text).unwrap();
            let checked = Command::new("sh").arg("-n").arg(&path).output().unwrap();
            assert!(checked.status.success(), "{text}\n{:?}", checked.stderr);
            // Without a step the script lists its steps.
            let ran = Command::new("sh").arg(&path).output().unwrap();
            assert!(String::from_utf8_lossy(&ran.stderr).contains("one of aside"), "{ran:?}");
        }
    }

    #[test]
    fn the_commands_are_kafkas_own_with_every_config() {
        let text = script_of(&plan(false));
        for words in [
            "    delete_former gone AAAAAAAAAAAAAAAAAAAAAA\n",
            "--replication-factor 1 --topic t --partitions 1 \\\n        --config 'cleanup.policy=compact,delete'\n",
            "    grow grown 7\n",
            "--add-config 'cleanup.policy=[compact,delete]' \\\n        --delete-config 'segment.ms'\n",
            "{\"topic\": \"t\", \"partition\": 0, \"offset\": 5}",
            "commit 'it'\\''s \"one\"' 'two' <<'END'\n\"it's \"\"one\"\"\",t,0,3\n\"two\",t,0,4\nEND\n",
            "# a remark",
            "HERE='/a b/it'\\''s'\n",
        ] {
            assert!(text.contains(words), "{words}\nis not in\n{text}");
        }
    }

    #[test]
    fn a_single_group_has_no_column_of_its_own() {
        let plan = Plan { commits: vec![commit("g", 1)], ..Plan::default() };
        assert!(script_of(&plan).contains("commit 'g' <<'END'\nt,0,1\nEND\n"));
    }

    #[test]
    fn only_the_same_kafka_has_directories_set_aside() {
        assert!(script_of(&plan(true)).contains("    set_aside t-0\n"));
        assert!(!script_of(&plan(false)).contains("    set_aside t-0\n"));
    }
}
