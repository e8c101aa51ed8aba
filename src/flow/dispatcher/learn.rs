//! What others forward, read as the announcements that it was.

use std::sync::Arc;

use super::remember::{Learned, Remembered};
use super::{Config, Rekey};
use crate::flow::standby::Learn;
use crate::message::{Decoded, Envelope, decode, seen_key, stamp, topic};

/// Remembers what comes under the keys of the output.
pub(super) fn learn(config: &Config, remembered: &Arc<Remembered>) -> Learn {
    let (reader, remembered) = (Arc::new(Reader::new(config)), Arc::clone(remembered));
    Arc::new(move |envelopes: Vec<Envelope>| {
        let (reader, remembered) = (Arc::clone(&reader), Arc::clone(&remembered));
        Box::pin(async move {
            let learned: Vec<Learned> = envelopes.into_iter().flat_map(|it| reader.read(it)).collect();
            remembered.learn(&learned).await;
        })
    })
}

/// The keys that everything is published under, as patterns.
pub(super) fn output_keys(rekey: &Rekey) -> Vec<String> {
    match rekey {
        Rekey::Fixed(key) => vec![key.clone()],
        Rekey::Prefix { to, .. } if to.is_empty() => vec!["#".to_owned()],
        // The first alone on an exchange that knows no patterns.
        Rekey::Prefix { to, .. } => vec![to.clone(), format!("{to}.#")],
    }
}

/// Undoes what forwarding did to a key, and decodes.
struct Reader {
    config: Config,
    /// What the first words of a key may have been that is the same for all now.
    beginnings: Vec<String>,
}

impl Reader {
    fn new(config: &Config) -> Reader {
        let mut beginnings: Vec<String> = match &config.rekey {
            Rekey::Prefix { .. } => Vec::new(),
            Rekey::Fixed(key) => {
                let bound = config.inputs.topology.bindings.iter();
                bound
                    .map(|binding| literal(&binding.key))
                    .chain([key.clone()])
                    .collect()
            }
        };
        beginnings.sort();
        beginnings.dedup();
        Reader {
            config: config.clone(),
            beginnings,
        }
    }

    /// What an announcement may be remembered by. Others may publish under these keys too: nothing of what makes no sense.
    fn read(&self, mut envelope: Envelope) -> Vec<Learned> {
        let keys = match &self.config.rekey {
            Rekey::Prefix { from, to } => match topic::rekey(&envelope.key, to, from) {
                Some(key) => vec![key.text],
                None => return Vec::new(),
            },
            Rekey::Fixed(_) => self.beginnings.clone(),
        };
        let mut learned: Vec<Learned> = Vec::with_capacity(1);
        for key in keys {
            envelope.key = key;
            let Ok(Decoded::Product(announcement)) = decode(&envelope, &self.config.decoding) else {
                continue;
            };
            let Some(key) = seen_key(&announcement, self.config.by) else {
                continue;
            };
            if self.config.masks.accepts(&announcement.path.0) && learned.iter().all(|other| other.key != key) {
                let time = stamp::announced_at(&announcement, &envelope);
                learned.push(Learned {
                    key,
                    announcement,
                    time,
                });
            }
        }
        learned
    }
}

/// The words of a pattern before the first that stands for others.
fn literal(pattern: &str) -> String {
    let words = pattern.split('.').take_while(|word| !matches!(*word, "*" | "#"));
    words.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_is_followed_by_its_keys_and_read_under_those_of_the_input() {
        let rekey = |to: &str| Rekey::Prefix {
            from: "v00.in".into(),
            to: to.into(),
        };
        assert_eq!(output_keys(&rekey("v00.out")), ["v00.out", "v00.out.#"]);
        assert_eq!(output_keys(&rekey("")), ["#"]);
        assert_eq!(output_keys(&Rekey::Fixed("first".into())), ["first"]);
        for (pattern, beginning) in [("v00.a.#", "v00.a"), ("v02.*.b", "v02"), ("#", ""), ("exp.c", "exp.c")] {
            assert_eq!(literal(pattern), beginning);
        }
    }
}
