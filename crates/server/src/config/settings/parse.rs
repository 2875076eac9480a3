//! Values of settings from text. An error is worded to follow the value. Pure.

use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

pub(super) fn number<T>(value: &str, range: std::ops::RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let (low, high) = (range.start(), range.end());
    let number = value.trim().replace('_', "").parse::<T>().ok().filter(|n| range.contains(n));
    number.ok_or_else(|| format!("is not a whole number from {low} to {high}"))
}

pub(super) fn milliseconds(value: &str, least: u64) -> Result<Duration, String> {
    number(value, least..=u64::MAX / 2).map(Duration::from_millis)
}

pub(super) fn truth(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "is neither true nor false".to_owned())
}

pub(super) fn socket_address(value: &str) -> Result<SocketAddr, String> {
    let mut found = value.to_socket_addrs().map_err(|e| format!("is no HOST:PORT: {e}"))?;
    found.next().ok_or_else(|| "names no address".to_owned())
}

pub(super) fn host_and_port(value: &str) -> Result<(String, u16), String> {
    let (host, port) = value.rsplit_once(':').ok_or("is no HOST:PORT")?;
    let port = port.parse().map_err(|_| "has no port from 0 to 65535".to_owned())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() { Err("has no host".to_owned()) } else { Ok((host.to_owned(), port)) }
}
