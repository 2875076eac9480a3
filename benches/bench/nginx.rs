//! nginx as a peer: it serves the same segment file by HTTP ranges, in one process.
//!
//! It is Debian's package `nginx-light`. With threads, file reads and sendfile leave the event
//! loop.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::log::Log;
use crate::plan::Plan;
use crate::server::{self, Server};

/// Starts nginx, with `aio threads` or without.
///
/// # Errors
/// nginx is not installed or does not start.
pub(crate) fn start(plan: &Plan, log: &Log, threads: bool) -> anyhow::Result<Server> {
    let name = if threads { "nginx aio" } else { "nginx" };
    let dir = plan.fresh(if threads { "nginx-aio" } else { "nginx" })?;
    let address = server::free_address()?;
    let configuration = dir.join("nginx.conf");
    fs::write(&configuration, words(&dir, &log.segment, address, threads))?;
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(&dir).arg("-e").arg(dir.join("error.log")).arg("-c").arg(&configuration);
    let process = server::spawn(plan, &nginx, address, &dir.join("output.txt"))?;
    let language = vec!["--language=http".to_owned(), "--path=/segment".to_owned()];
    Ok(Server::other(name, address, language, log, process))
}

/// The configuration: one process that does not fork, so that all of it is measured, and
/// connections that live as long as a run.
fn words(dir: &Path, segment: &Path, address: SocketAddr, threads: bool) -> String {
    let (dir, segment) = (dir.display(), segment.display());
    let aio = if threads { "aio threads;" } else { "" };
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {dir}/pid;
error_log {dir}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    {aio}
    keepalive_requests 1000000000;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen {address};
        location = /segment {{ alias {segment}; }}
    }}
}}
"
    )
}
