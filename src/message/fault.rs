//! Whose fault a failure is. One question decides what happens next.

/// The three classes of failure. Decided where the foreign error is born, never guessed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// This message is bad (undecodable, 404, wrong bytes): attempts are counted, then it is kept as failed.
    Message,
    /// The other side is unwell (refused, time-out, 5xx): parked without counting until `give_up_after`.
    Endpoint,
    /// This host or its rights are (disk full, no descriptors, credentials refused): the unit pauses.
    Own,
}
