//! What /metrics shows of readers that are made up: bounds, and which names have series.

use prometheus_client::registry::Registry;

use super::*;

fn reader(client_id: &str, cold_bytes: u64) -> (ReaderView, Totals) {
    let disk_wait = Duration::from_millis(cold_bytes);
    let view = ReaderView {
        client_id: client_id.to_owned(),
        group: None,
        topic: "t".to_owned(),
        partition: 0,
        next_offset: 1,
        log_end_offset: 3,
        behind_bytes: 20,
        behind_records: 2,
        behind_seconds: Some(1.5),
        path: "chain",
        sent_bytes: cold_bytes,
        cold_bytes,
        disk_wait,
        last_seen: Instant::now(),
    };
    (view, Totals { sent_bytes: cold_bytes, cold_bytes, disk_wait, ..Totals::default() })
}

/// A look with these readers.
fn show(metrics: &ReaderMetrics, readers: Vec<(ReaderView, Totals)>) {
    show_at(metrics, readers, Instant::now());
}

fn show_at(metrics: &ReaderMetrics, readers: Vec<(ReaderView, Totals)>, now: Instant) {
    metrics.show((readers, Totals::default()), Looked::default(), now);
}

fn text(metrics: &ReaderMetrics) -> String {
    let mut registry = Registry::with_prefix("penstock");
    registry.register_collector(Box::new(metrics.clone()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

fn disk_bytes(text: &str) -> HashMap<&str, u64> {
    let lines = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("penstock_client_disk_bytes_total{client_id=\"")?;
        let (name, value) = rest.rsplit_once("\"} ")?;
        Some((name, value.parse().unwrap()))
    });
    lines.collect()
}

#[test]
fn ten_thousand_clients_are_a_few_series_and_every_byte_is_in_one() {
    let metrics = ReaderMetrics::default();
    let readers = |each| (0..10_000).map(|n: u64| reader(&format!("c{n}"), each + n)).collect();
    for each in [1, 5] {
        show(&metrics, readers(each));
    }
    let text = text(&metrics);
    let shown = disk_bytes(&text);
    assert_eq!(shown.len(), NAMES_MAX + 1);
    assert_eq!(shown.values().sum::<u64>(), 2 * (0..10_000).sum::<u64>() + 60_000);
    assert!(shown.contains_key("c9999") && shown.contains_key(OTHER));
    assert!(text.contains("penstock_client_behind_records{client_id=\"c9999\"} 2\n"));
    assert!(text.contains("penstock_topic_behind_seconds{topic=\"t\"} 1.5\n"));
}

#[test]
fn a_series_never_falls_while_it_is_there() {
    let metrics = ReaderMetrics::default();
    let mut before = HashMap::<String, u64>::new();
    for round in 0..20 {
        let readers = (0..80).map(|n| reader(&format!("c{n}"), (n * 31 + round * 17) % 100));
        let forgotten = reader("gone", 3).1;
        metrics.show((readers.collect(), forgotten), Looked::default(), Instant::now());
        let text = text(&metrics);
        let shown = disk_bytes(&text);
        for (name, bytes) in &shown {
            let was = before.get(*name).copied().unwrap_or_default();
            assert!(*bytes >= was, "{name} fell from {was} to {bytes}");
        }
        before = shown.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    }
}

#[test]
fn one_that_begins_to_read_cold_takes_the_place_of_one_that_does_not() {
    let metrics = ReaderMetrics::default();
    let hot: Vec<_> = (0..NAMES_MAX).map(|n| reader(&format!("hot{n}"), 0)).collect();
    show(&metrics, hot.clone());
    let all = hot.into_iter().chain([reader("scan", 7)]).collect();
    show(&metrics, all);
    let text = text(&metrics);
    assert_eq!(disk_bytes(&text).get("scan"), Some(&7));
}

#[test]
fn a_name_that_a_client_chose_breaks_no_line() {
    let metrics = ReaderMetrics::default();
    show(&metrics, vec![reader("a\"b\\c\nd", 1)]);
    assert!(text(&metrics).contains("{client_id=\"a\\\"b\\\\c\\nd\"} 1\n"));
}

#[test]
fn the_rest_of_the_lags_is_one_row() {
    let lag = |n: u64| Lag {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        partition: n as i32,
        committed_offset: 0,
        log_end_offset: n as i64,
        lag_records: n,
        lag_seconds: Some(n as f64),
    };
    let metrics = ReaderMetrics::default();
    let lags = (0..LAGS_MAX as u64 + 4).map(lag).collect();
    let looked = Looked { lags, left_out: 7 };
    metrics.show((Vec::new(), Totals::default()), looked, Instant::now());
    let text = text(&metrics);
    let rest = "{group=\"other\",topic=\"other\",partition=\"other\"}";
    assert!(text.contains(&format!("penstock_group_lag_records{rest} 6\n")), "0 + 1 + 2 + 3");
    assert!(text.contains(&format!("penstock_group_lag_seconds{rest} 3.0\n")));
    assert_eq!(text.matches("group_lag_records{").count(), LAGS_MAX + 1);
    assert!(text.contains("penstock_group_lags_left_out 7\n"));
}

#[test]
fn the_counters_of_a_name_without_a_reader_stay_for_a_while_beside_newcomers() {
    let (metrics, begin) = (ReaderMetrics::default(), Instant::now());
    show_at(&metrics, vec![reader("scan", 7)], begin);
    let newcomers = |cold| (0..NAMES_MAX).map(|n| reader(&format!("new{n}"), cold)).collect();
    for minutes in 1..10 {
        show_at(&metrics, newcomers(minutes), begin + Duration::from_secs(60 * minutes));
        let text = text(&metrics);
        assert_eq!(disk_bytes(&text).get("scan"), Some(&7), "minute {minutes}");
        assert!(!text.contains("penstock_client_behind_bytes{client_id=\"scan\"}"));
    }
    show_at(&metrics, newcomers(1), begin + Duration::from_secs(60) + GONE_STAYS);
    let text = text(&metrics);
    assert_eq!((disk_bytes(&text).get("scan"), disk_bytes(&text).len()), (None, NAMES_MAX));
}

#[test]
fn a_name_that_comes_back_goes_on_counting_and_is_in_one_series_only() {
    let metrics = ReaderMetrics::default();
    show(&metrics, vec![reader("scan", 7)]);
    show(&metrics, Vec::new());
    show(&metrics, vec![reader("scan", 2)]);
    assert_eq!(disk_bytes(&text(&metrics)).get("scan"), Some(&9));
    // Without a place it is a part of `other`, and its old series goes.
    show(&metrics, Vec::new());
    let others: Vec<_> = (0..NAMES_MAX).map(|n| reader(&format!("c{n}"), 5)).collect();
    show(&metrics, others.clone());
    show(&metrics, others.into_iter().chain([reader("scan", 5)]).collect());
    let text = text(&metrics);
    assert_eq!(disk_bytes(&text).get("scan"), None);
    assert_eq!(disk_bytes(&text).get(OTHER), Some(&5));
}

#[test]
fn names_that_have_gone_are_bounded() {
    let metrics = ReaderMetrics::default();
    for n in 0..5 * NAMES_MAX {
        show(&metrics, vec![reader(&format!("passing{n}"), 1)]);
    }
    let text = text(&metrics);
    let shown = disk_bytes(&text);
    assert_eq!(shown.len(), NAMES_MAX + 1, "one has a place");
    assert!(shown.contains_key("passing200") && !shown.contains_key("passing198"));
}
