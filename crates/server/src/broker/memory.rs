//! Divides the memory limit: which part may be held for peers, and in which form.
//!
//! Made at start from the limit of [`crate::config::memory_limit`]. Workers and connections take
//! from it; http shows it. The division is a table of shares. An operator's settings override it.
//!
//! ```text
//!   limit  |= requests 1/8 =|= send buffers 1/4 =|= pages 3/16 =|= connections 1/4 =|answers 2/16| rest 1/16
//! ```

use std::sync::Arc;

use penstock_ring::PageBudget;

use crate::broker::send_memory::SendMemory;
use crate::broker::uploads::Uploads;
use crate::config::limits::{
    ANSWER_MAX_BYTES, ANSWERS_IN_FLIGHT_MAX_BYTES, BATCH_MAX_BYTES, FRAME_MAX_BYTES,
    RECEIVE_FREE_BYTES, RECEIVE_KEPT_BYTES, REQUESTS_IN_FLIGHT_LEAST_BYTES,
    REQUESTS_IN_FLIGHT_MAX_BYTES,
};
use crate::config::memory_limit::MemoryLimit;
use crate::config::settings::Settings;

/// Memory of a connection beside its send buffer: a socket, a task, a receive buffer.
const CONNECTION_BYTES: u64 = 32 * 1024;

/// The least number of connections, however little memory there is.
const CONNECTIONS_LEAST: u64 = 16;
const ANSWERS_LEAST_BYTES: u64 = 1024 * 1024;

/// The memory for requests, granted and in all.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) limit: Option<MemoryLimit>,
    pub(crate) uploads: Uploads,
    /// The same for answers, beside records, until peers have taken them.
    pub(crate) answers: Uploads,
    /// None: memory suffices for the usual buffer of every connection.
    pub(crate) send: Option<Arc<SendMemory>>,
    /// None: the limit is not known.
    pub(crate) pages: Option<Arc<PageBudget>>,
}

impl Memory {
    pub(crate) fn new(limit: Option<MemoryLimit>, settings: &Settings) -> Self {
        let limit_bytes = limit.as_ref().map(|limit| limit.bytes);
        Memory {
            uploads: Uploads::new(settings.requests_in_flight_max_bytes),
            answers: Uploads::new(settings.answers_in_flight_max_bytes as u32),
            send: limit_bytes.and_then(|bytes| send_memory(bytes, settings)).map(Arc::new),
            pages: limit_bytes.map(|bytes| Arc::new(PageBudget::new(bytes / 16 * 3))),
            limit,
        }
    }
}

/// The kernel doubles SO_SNDBUF. A size that is left to the kernel has no bound.
fn send_memory(limit_bytes: u64, settings: &Settings) -> Option<SendMemory> {
    let usual_bytes = 2 * settings.send_buffer_bytes? as u64;
    let connections = settings.connections_max as u64;
    let share_bytes = limit_bytes / 4;
    let is_short = connections.saturating_mul(usual_bytes) > share_bytes;
    is_short.then(|| SendMemory::new(share_bytes, connections, usual_bytes))
}

impl Settings {
    /// Fits settings to the memory limit, except those that an operator has set.
    pub(crate) fn fit_memory(&mut self, limit_bytes: u64) {
        let share =
            |divisor: u64, least: u64, most: u64| (limit_bytes / divisor).clamp(least, most);
        let is_set = |key| self.explicit.contains(key);
        let (frame_is_set, requests_are_set) =
            (is_set("socket.request.max.bytes"), is_set("queued.max.request.bytes"));
        let connections_are_set = is_set("max.connections");
        if !requests_are_set {
            let least = REQUESTS_IN_FLIGHT_LEAST_BYTES;
            let least = if frame_is_set { least.max(self.frame_max_bytes) } else { least };
            let most = u64::from(REQUESTS_IN_FLIGHT_MAX_BYTES);
            self.requests_in_flight_max_bytes = share(8, u64::from(least), most) as u32;
        }
        if !frame_is_set {
            self.frame_max_bytes = FRAME_MAX_BYTES.min(self.requests_in_flight_max_bytes);
        }
        if !connections_are_set {
            let most = limit_bytes / 4 / CONNECTION_BYTES;
            self.connections_max = self.connections_max.min(most.max(CONNECTIONS_LEAST) as usize);
        }
        let answers_max = ANSWERS_IN_FLIGHT_MAX_BYTES as u64;
        self.answers_in_flight_max_bytes = share(16, ANSWERS_LEAST_BYTES, answers_max) as usize;
        self.answer_max_bytes = ANSWER_MAX_BYTES.min(self.answers_in_flight_max_bytes);
        let of_each = limit_bytes / 4 / self.connections_max as u64;
        if of_each < RECEIVE_FREE_BYTES as u64 + CONNECTION_BYTES {
            self.receive_free_bytes = RECEIVE_KEPT_BYTES;
        }
    }
}

const _: () = assert!(BATCH_MAX_BYTES < REQUESTS_IN_FLIGHT_LEAST_BYTES as usize);
const _: () = assert!(RECEIVE_KEPT_BYTES < CONNECTION_BYTES as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::send_memory::SMALL_BYTES;

    const MIB: u64 = 1024 * 1024;

    fn fitted(limit_bytes: u64, set: &[(&str, &str)]) -> Settings {
        let mut settings = Settings { connections_max: 10_000, ..Settings::default() };
        set.iter().for_each(|(key, value)| settings.set(key, value).unwrap());
        settings.fit_memory(limit_bytes);
        settings
    }

    #[test]
    fn a_machine_with_memory_to_spare_has_the_defaults() {
        let settings = fitted(64 << 30, &[]);
        assert_eq!(format!("{settings:?}"), format!("{:?}", fitted(u64::MAX, &[])));
        let defaults = Settings { connections_max: 10_000, ..Settings::default() };
        assert_eq!(format!("{settings:?}"), format!("{defaults:?}"));
        let limit = Some(MemoryLimit { bytes: 64 << 30, source: "/proc/meminfo".into() });
        assert!(Memory::new(limit, &settings).send.is_none());
    }

    #[test]
    fn all_defaults_together_fit_any_limit() {
        for limit_bytes in [24 * MIB, 64 * MIB, 512 * MIB, 2048 * MIB] {
            let settings = fitted(limit_bytes, &[]);
            let connections = settings.connections_max as u64;
            let receiving = settings.receive_free_bytes as u64 * connections;
            let sending = limit_bytes / 4;
            assert!(connections * SMALL_BYTES <= sending, "small buffers fit their share");
            let pages = limit_bytes / 16 * 3;
            let all = u64::from(settings.requests_in_flight_max_bytes)
                + 2 * settings.answers_in_flight_max_bytes as u64
                + receiving.max(connections * CONNECTION_BYTES)
                + sending
                + pages;
            assert!(all <= limit_bytes / 16 * 15, "{all} of {limit_bytes}: {settings:?}");
            assert!(settings.frame_max_bytes <= settings.requests_in_flight_max_bytes);
            assert!(settings.answer_max_bytes <= settings.answers_in_flight_max_bytes);
        }
    }

    #[test]
    fn what_an_operator_has_set_stays() {
        let set = [
            ("queued.max.request.bytes", "268435456"),
            ("socket.request.max.bytes", "104857600"),
            ("max.connections", "7000"),
        ];
        let settings = fitted(64 * MIB, &set);
        assert_eq!(settings.requests_in_flight_max_bytes, 268_435_456);
        assert_eq!(settings.frame_max_bytes, 104_857_600);
        assert_eq!(settings.connections_max, 7000);
        let frame_only = fitted(64 * MIB, &set[1..2]);
        assert_eq!(frame_only.requests_in_flight_max_bytes, 104_857_600, "it holds a frame");
    }

    #[test]
    fn no_memory_at_all_is_survived() {
        let settings = fitted(0, &[]);
        assert!(settings.connections_max > 0 && settings.frame_max_bytes > BATCH_MAX_BYTES as u32);
        let limit = Some(MemoryLimit { bytes: 0, source: "".into() });
        let memory = Memory::new(limit, &settings);
        assert_eq!(memory.send.unwrap().widen(SMALL_BYTES, MIB, true), SMALL_BYTES);
    }
}
