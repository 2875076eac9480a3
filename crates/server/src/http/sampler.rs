//! Makes the live page's events: the overview every two seconds, the map of memory as often as it
//! is cheap.
//!
//! events.rs runs it on a thread that may block, while a page is open. The kernel walks every page
//! in memory for a map, so a map of much memory takes long; the next one waits in proportion.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use rustix::time::{ClockId, clock_gettime};

use crate::broker::Broker;
use crate::broker::residency_map;
use crate::http::overview::{EVENT_BYTES_MAX, Overview, json};

/// From one overview to the next.
pub(super) const OVERVIEW_EVERY: Duration = Duration::from_secs(2);

/// Maps take at most this part of a processor.
const MAP_SHARE: u32 = 250;

/// The events to be sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Latest {
    pub(super) overview: Bytes,
    pub(super) map: Bytes,
    /// Rises with each map.
    pub(super) map_number: u64,
}

/// Makes events, one after the other, for all open pages.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    latest: Latest,
    map_due: Option<Instant>,
}

impl Sampler {
    /// Blocks.
    pub(super) fn sample(&mut self, broker: &Broker, now: Instant) -> Latest {
        let shown = residency_map::chosen(broker.topics.partitions());
        if self.map_due.is_none_or(|due| due <= now) {
            let began = processor_time();
            let map = residency_map::map(&shown, broker.lies_on.sight);
            self.latest.map = event("map", &json(&map));
            self.latest.map_number += 1;
            self.map_due = Some(now + until_next_map(processor_time().saturating_sub(began)));
        }
        self.latest.overview = event("overview", &Overview::of(broker, &shown, now).json());
        self.latest.clone()
    }
}

fn until_next_map(took: Duration) -> Duration {
    // An overview comes a moment late, and the map beside it must not miss its turn.
    (took * MAP_SHARE).max(OVERVIEW_EVERY * 3 / 4)
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// A server-sent event. JSON holds no line break, so it is one line of data. The bounds of all
/// lists keep it small enough; one that is too large all the same is left out.
fn event(name: &str, json: &str) -> Bytes {
    debug_assert!(json.len() <= EVENT_BYTES_MAX, "{name} has {} bytes", json.len());
    match json.len() {
        0..=EVENT_BYTES_MAX => format!("event: {name}\ndata: {json}\n\n").into(),
        len_bytes => format!(": {name} left out, {len_bytes} bytes\n\n").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_keep_to_their_share_of_a_processor() {
        assert_eq!(until_next_map(Duration::from_millis(1)), Duration::from_millis(1500));
        assert_eq!(until_next_map(Duration::from_millis(40)), Duration::from_secs(10));
    }

    #[test]
    fn an_event_is_one_line_of_data_whatever_a_client_is_called() {
        let hostile = "\n\nevent: overview\ndata: {}\r\n\u{2028}</script>";
        let event = event("overview", &json(&hostile));
        let text = std::str::from_utf8(&event).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        let data = text.lines().nth(1).unwrap().strip_prefix("data: ").unwrap();
        assert_eq!(serde_json::from_str::<String>(data).unwrap(), hostile);
    }
}
