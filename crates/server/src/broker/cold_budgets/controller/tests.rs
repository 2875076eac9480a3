//! The controller beside a simulated server: hot fetches that are slower the more is read from the
//! disk, with noise; load that comes and goes.

use super::*;

const TARGET: Duration = Duration::from_millis(5);
const WINDOW: Duration = Duration::from_millis(250);
const MB: f64 = 1e6;

/// A server whose hot p99 grows with the rate of cold reads.
struct Plant {
    controller: Controller,
    /// The p99 without cold reads, in ms.
    quiet_ms: f64,
    /// What 1 MB/s of cold reads adds to it.
    ms_per_mb: f64,
    /// What cold readers would take.
    wanted: f64,
    hot_fetches: u64,
    /// The least significant state of a generator of noise.
    seed: u64,
}

/// What windows showed.
#[derive(Debug, Default)]
struct Shown {
    p99_ms: Vec<f64>,
    read_mb: Vec<f64>,
}

impl Plant {
    fn new(ms_per_mb: f64, wanted: f64) -> Plant {
        let controller = Controller::new(TARGET);
        Plant { controller, quiet_ms: 0.5, ms_per_mb, wanted, hot_fetches: 700, seed: 7 }
    }

    /// From 0.8 to 1.2.
    fn noise(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        0.8 + 0.4 * (self.seed >> 33) as f64 / f64::from(1_u32 << 31)
    }

    fn run(&mut self, windows: usize) -> Shown {
        let mut shown = Shown::default();
        for _ in 0..windows {
            let rate = self.wanted.min(self.controller.permitted());
            let p99_ms = (self.quiet_ms + self.ms_per_mb * rate / MB) * self.noise();
            let p99 = (self.hot_fetches > 0).then(|| Duration::from_secs_f64(p99_ms / 1e3));
            self.controller.step(&Window {
                took: WINDOW,
                hot_fetches: self.hot_fetches,
                p99,
                lately_p99: p99,
                disk_bytes: (rate * WINDOW.as_secs_f64()) as u64,
                postponed: rate < self.wanted,
            });
            shown.p99_ms.push(p99_ms);
            shown.read_mb.push(rate / MB);
        }
        shown
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn hot_fetches_keep_their_target_and_cold_reads_get_what_is_left() {
    for ms_per_mb in [0.005, 0.02, 0.1] {
        let mut plant = Plant::new(ms_per_mb, 2000.0 * MB);
        plant.run(100);
        let shown = plant.run(600);
        let slow = shown.p99_ms.iter().filter(|p99_ms| **p99_ms > 5.0).count();
        assert!(slow <= 12, "{slow} of 600 windows, {ms_per_mb} ms a MB/s");
        let possible_mb = (5.0 - 0.5) / ms_per_mb;
        let read_mb = mean(&shown.read_mb);
        assert!(read_mb > 0.4 * possible_mb, "{read_mb} of {possible_mb} MB/s");
    }
}

#[test]
fn a_load_that_disturbs_nothing_is_not_held_back_for_long() {
    let mut plant = Plant::new(0.0005, 2000.0 * MB);
    plant.run(20);
    let read_mb = mean(&plant.run(50).read_mb);
    assert!(read_mb > 1900.0, "{read_mb}");
}

#[test]
fn without_hot_fetches_every_rate_is_permitted() {
    let mut plant = Plant::new(0.1, 2000.0 * MB);
    assert!(plant.controller.permitted().is_infinite(), "before the first measurement");
    plant.run(100);
    let beside_mb = plant.controller.permitted() / MB;
    assert!(beside_mb < 50.0, "{beside_mb}");
    plant.hot_fetches = 0;
    plant.run(1);
    assert_eq!(plant.controller.reason(), Reason::NoHotFetches);
    assert!(plant.controller.permitted().is_infinite());
    plant.hot_fetches = 700;
    plant.run(1);
    let again_mb = plant.controller.permitted() / MB;
    assert!(again_mb < 1.1 * beside_mb, "it remembers: {again_mb} after {beside_mb}");
}

#[test]
fn hot_fetches_that_come_back_are_seen_at_once_and_rare_ones_get_a_longer_window() {
    let mut controller = Controller::new(TARGET);
    assert!(controller.is_enough(10, WINDOW), "it was open");
    let window = |hot_fetches| Window {
        took: WINDOW,
        hot_fetches,
        p99: Some(Duration::from_millis(1)),
        lately_p99: None,
        disk_bytes: 0,
        postponed: false,
    };
    controller.step(&window(10));
    assert!(!controller.is_enough(99, WINDOW));
    assert!(controller.is_enough(100, WINDOW));
    assert!(controller.is_enough(0, Duration::from_secs(2)));
    controller.step(&window(9));
    assert_eq!(controller.reason(), Reason::NoHotFetches, "too few to protect");
}

#[test]
fn a_hot_set_that_is_slow_by_itself_starves_no_cold_reader() {
    let mut plant = Plant::new(0.001, 300.0 * MB);
    plant.quiet_ms = 50.0;
    let shown = plant.run(300);
    let floor_mb = FLOOR / MB;
    assert!(shown.read_mb.iter().all(|read_mb| *read_mb >= floor_mb));
    assert_eq!(plant.controller.reason(), Reason::Floor);
    plant.wanted = 0.0;
    let before = plant.controller.permitted();
    plant.run(10);
    assert_eq!(plant.controller.reason(), Reason::SlowWithoutColdReads);
    assert_eq!(plant.controller.permitted(), before);
    (plant.quiet_ms, plant.wanted) = (0.5, 300.0 * MB);
    plant.run(200);
    assert!(plant.controller.permitted() > 250.0 * MB, "it recovers");
}

#[test]
fn a_rate_that_is_not_used_does_not_grow() {
    let mut plant = Plant::new(0.001, 10.0 * MB);
    plant.run(100);
    assert_eq!(plant.controller.reason(), Reason::Unused);
    assert_eq!(plant.controller.permitted(), FIRST);
}

#[test]
fn readers_that_come_later_begin_with_a_rate_that_was_tried() {
    let mut plant = Plant::new(0.001, 2000.0 * MB);
    plant.run(100);
    assert!(plant.controller.permitted() > 500.0 * MB);
    plant.wanted = 150.0 * MB;
    plant.run(40);
    let permitted = plant.controller.permitted();
    assert!((150.0 * MB..300.0 * MB).contains(&permitted), "{permitted}");
    plant.wanted = 0.0;
    plant.run(40);
    assert_eq!(plant.controller.permitted(), FIRST);
}

#[test]
fn one_slow_window_of_a_light_scan_does_not_hold_it_back() {
    let mut plant = Plant::new(0.001, 40.0 * MB);
    plant.run(10);
    plant.quiet_ms = 20.0;
    plant.run(1);
    plant.quiet_ms = 0.5;
    let read_mb = mean(&plant.run(20).read_mb);
    assert!(read_mb > 35.0, "{read_mb}");
}

#[test]
fn a_stall_within_the_one_percent_of_the_last_seconds_changes_nothing() {
    let mut controller = Controller::new(TARGET);
    let window = |ms, lately_ms| Window {
        took: WINDOW,
        hot_fetches: 700,
        p99: Some(Duration::from_millis(ms)),
        lately_p99: Some(Duration::from_millis(lately_ms)),
        disk_bytes: 30 << 20,
        postponed: true,
    };
    let began = controller.step(&window(2, 2));
    assert_eq!(controller.step(&window(9, 2)), began);
    assert_eq!(controller.reason(), Reason::NearTarget);
    assert!(controller.step(&window(9, 6)) < began);
    assert_eq!(controller.reason(), Reason::TooSlow);
    controller.step(&window(1, 6));
    assert_eq!(controller.reason(), Reason::Room);
}

#[test]
fn a_load_that_comes_and_goes_keeps_the_target() {
    let mut plant = Plant::new(0.02, 2000.0 * MB);
    plant.run(100);
    let mut slow = 0;
    for round in 0..40 {
        plant.wanted = if round % 2 == 0 { 5.0 * MB } else { 2000.0 * MB };
        slow += plant.run(15).p99_ms.iter().filter(|p99_ms| **p99_ms > 5.0).count();
    }
    assert!(slow <= 12, "{slow} of 600 windows");
}
