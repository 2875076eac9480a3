//! Apache Kafka as a peer: one process, broker and controller (KRaft), with its defaults.
//!
//! `make peers` puts the jars of Maven Central into target/kafka-libs. Heap and collector are those
//! of Kafka's start script. The settings here are those that a single node needs to run at all.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::log::{self, Log};
use crate::plan::Plan;
use crate::server::{self, Other, Server};

const LIBRARIES: &str = "target/kafka-libs";
/// KAFKA_HEAP_OPTS and KAFKA_JVM_PERFORMANCE_OPTS of bin/kafka-server-start.sh and
/// kafka-run-class.sh.
const JAVA: [&str; 8] = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
];
/// Any 16 bytes in base64.
const CLUSTER_ID: &str = "cGVuc3RvY2stYmVuY2gtMQ";

/// A running broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) address: SocketAddr,
    pub(crate) process: Other,
    data_dir: PathBuf,
}

/// Starts a broker on a fresh directory.
///
/// # Errors
/// Java or the jars are missing, or the broker does not start.
pub(crate) fn broker(plan: &Plan) -> anyhow::Result<Broker> {
    plan.say("starting Apache Kafka");
    let dir = plan.fresh("kafka")?;
    let (address, controller) = (server::free_address()?, server::free_address()?);
    let (data_dir, settings) = (dir.join("data"), dir.join("server.properties"));
    fs::write(&settings, properties(&data_dir, address, controller))?;
    format_storage(&settings)?;
    let mut broker = java("kafka.Kafka");
    broker.arg(&settings);
    let process = server::spawn(plan, &broker, address, &dir.join("output.txt"))?;
    Ok(Broker { address, process, data_dir })
}

/// Starts a broker and writes the log into it.
///
/// # Errors
/// The broker does not start, or writes another log than Penstock did.
pub(crate) fn start(plan: &Plan) -> anyhow::Result<Server> {
    let Broker { address, process, data_dir } = broker(plan)?;
    log::produce_into(address, plan).context("into Apache Kafka")?;
    let log = Log::look(&data_dir, plan.log_bytes)?;
    Ok(Server::other("kafka", address, server::kafka_language(&log), &log, process))
}

fn format_storage(settings: &Path) -> anyhow::Result<()> {
    let mut format = java("kafka.tools.StorageTool");
    format.args(["format", "--cluster-id", CLUSTER_ID, "--config"]).arg(settings);
    let ended = format.output().context("cannot start java")?;
    let output = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "{format:?} ended with {}: {output}", ended.status);
    Ok(())
}

fn java(class: &str) -> Command {
    let mut java = Command::new("java");
    java.args(JAVA).args(["-cp", &format!("{LIBRARIES}/*"), class]);
    java
}

fn properties(data_dir: &Path, address: SocketAddr, controller: SocketAddr) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@{controller}\n\
         listeners=PLAINTEXT://{address},CONTROLLER://{controller}\n\
         advertised.listeners=PLAINTEXT://{address}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n",
        data_dir.display()
    )
}
