//! Receivers that are fed by others: who looks at what is put into its queue.

use std::path::PathBuf;

use super::unit::is_native;
use super::{Errors, Places, Service, UnitDir, UnitName, file, service, sundew};

/// A receiver of this site as another one sees it that feeds it.
#[derive(Debug, PartialEq, Eq)]
pub enum Fed {
    /// There is none of this name.
    Missing,
    /// It takes what is put into its queue, and feeds these in turn.
    Takes(Vec<String>),
    /// It never looks there, for its products come by another way.
    Ignores,
}

/// What becomes of products that the receiver of this name is fed.
pub fn fed(places: &Places, name: &str) -> Fed {
    let directory = places.etc.join(UnitDir::Rx.name());
    let files: [PathBuf; 2] = ["toml", "conf"].map(|extension| directory.join(format!("{name}.{extension}")));
    let (Some(path), Ok(unit)) = (
        files.into_iter().find(|path| path.exists()),
        UnitName::new(UnitDir::Rx, name),
    ) else {
        return Fed::Missing;
    };
    if !is_native(&path) {
        let is_served = service(places, &unit, &path) == Service::Served;
        return match is_served && !sundew::is_single_file(places, &path) {
            true => Fed::Ignores,
            false => Fed::Takes(sundew::feeds(places, &path)),
        };
    }
    let Some(mut table) = file::load(&path, &Errors::default()) else {
        // Why it cannot be read is told where it is itself.
        return Fed::Takes(Vec::new());
    };
    match table.string("type").as_deref() {
        Some("amqp" | "pull") => Fed::Ignores,
        _ => Fed::Takes(
            table
                .parsed_list("feeds", |text| Ok(text.to_string()), "")
                .unwrap_or_default(),
        ),
    }
}

/// The way on which what this receiver feeds would come back to it, itself at both ends.
pub fn cycle(places: &Places, receiver: &str, feeds: &[String]) -> Option<Vec<String>> {
    let mut seen = vec![receiver.to_string()];
    let mut ways: Vec<Vec<String>> = feeds
        .iter()
        .map(|feed| vec![receiver.to_string(), feed.clone()])
        .collect();
    while let Some(way) = ways.pop() {
        let Some(last) = way.last() else { continue };
        let Fed::Takes(next) = fed(places, last) else { continue };
        if last == receiver {
            return Some(way);
        }
        if !seen.contains(last) {
            seen.push(last.clone());
            ways.extend(next.into_iter().map(|feed| [&way[..], &[feed]].concat()));
        }
    }
    None
}
