//! How long nothing came.

use jiff::Timestamp;

/// The longest time without any of `times` (in order) that ended after `from`; the first pause begins no earlier than
/// `from`, for before that nothing had been done to anybody.
pub fn longest_pause(times: &[Timestamp], from: Timestamp) -> f64 {
    let mut longest: f64 = 0.0;
    let mut last = from;
    for &time in times.iter().filter(|&&time| time > from) {
        longest = longest.max(time.duration_since(last).as_secs_f64());
        last = time;
    }
    longest
}

/// Median (the upper one) and greatest.
pub fn p50_and_max(mut pauses: Vec<f64>) -> (f64, f64) {
    pauses.sort_by(f64::total_cmp);
    (pauses[pauses.len() / 2], pauses[pauses.len() - 1])
}
