//! What the log says of the life of a sender or a receiver: the lines that a site's scripts look for.

use crate::config::{UnitDir, UnitName};

/// The lines of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// When it begins.
    pub started: String,
    /// When it has read its configuration anew.
    pub reloaded: Vec<&'static str>,
    /// When it ends.
    pub stopped: String,
}

impl Words {
    /// Those of a unit of `tx/` or `rx/` of this `type`; others have none of their own.
    pub fn of(unit: &UnitName, kind: &str) -> Option<Words> {
        let (who, reloaded) = match unit.dir {
            UnitDir::Tx => {
                let reloaded = match kind {
                    "amqp" => "Sender AMQP has been reloaded",
                    _ => "Sender FTP has been reloaded",
                };
                ("Sender", vec!["Cache has been cleared", reloaded])
            }
            UnitDir::Rx => ("Receiver", vec!["Receiver has been reloaded"]),
            UnitDir::Watch | UnitDir::Dispatch | UnitDir::Process => return None,
        };
        let name = &unit.name;
        Some(Words {
            started: format!("{who} {name} has been started"),
            reloaded,
            stopped: format!("{who} {name} (type: {kind}) has been stopped"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_and_receivers_speak_as_sites_know_them() {
        let words = |unit: &str, kind| Words::of(&unit.parse().unwrap(), kind);
        let sender = words("tx/dd-notify-wxo-b1", "amqp").unwrap();
        assert_eq!(sender.started, "Sender dd-notify-wxo-b1 has been started");
        assert_eq!(sender.stopped, "Sender dd-notify-wxo-b1 (type: amqp) has been stopped");
        assert_eq!(
            sender.reloaded,
            ["Cache has been cleared", "Sender AMQP has been reloaded"]
        );
        let receiver = words("rx/drop", "single-file").unwrap();
        assert_eq!(receiver.started, "Receiver drop has been started");
        assert_eq!(receiver.stopped, "Receiver drop (type: single-file) has been stopped");
        assert_eq!(receiver.reloaded, ["Receiver has been reloaded"]);
        assert_eq!(words("watch/a", ""), None);
    }
}
