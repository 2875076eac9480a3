//! Numbers and lines in human form, for tables, pages and pictures.

/// Keeps a number and its unit on one line.
const NO_BREAK: char = '\u{a0}';

/// A size with its unit.
pub fn size(bytes: u64) -> String {
    let (count, unit) = if bytes >= 1 << 20 { (bytes >> 20, "MiB") } else { (bytes >> 10, "KiB") };
    format!("{count}{NO_BREAK}{unit}")
}

/// A count with separated thousands.
pub fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(NO_BREAK);
        }
        grouped.push(digit);
    }
    grouped
}

/// Breaks text into lines of at most `width`, where it can be broken.
pub fn wrap(text: &str, separator: &str, longest: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in text.split(separator) {
        let more = separator.chars().count() + part.chars().count();
        match lines.last_mut() {
            Some(line) if line.chars().count() + more <= longest => {
                line.push_str(separator);
                line.push_str(part);
            }
            _ => lines.push(part.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(count(0.4), "0");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(1000.0), "1\u{a0}000");
        assert_eq!(count(1_234_567.0), "1\u{a0}234\u{a0}567");
    }

    #[test]
    fn sizes_are_in_the_largest_unit() {
        assert_eq!([size(64 << 10), size(1 << 20)], ["64\u{a0}KiB", "1\u{a0}MiB"]);
    }

    #[test]
    fn a_text_is_broken_between_its_parts_only() {
        assert_eq!(wrap("one · two · three", " · ", 9), ["one · two", "three"]);
        assert_eq!(wrap("longer than a line", " · ", 3), ["longer than a line"]);
    }
}
