//! Sundew's configuration, as far as px has to understand it: `px.conf`, `pxRouting.conf` and the `.conf` of flows.
//!
//! The `.conf` of a type that px serves is read into the very table that a TOML file gives, with the places of its own
//! lines, so that a component sees no difference and what is wrong is said of the line that has it.

mod broker;
mod convert;
mod keywords;
mod lines;
mod masks;
mod reading;
mod receiver;
mod sender;

use std::path::Path;

use keywords::Kind;
use lines::FlowDir;
use reading::Reading;

pub use convert::{Conversion, broker_as_toml, convert, print};

use super::{Broker, Errors, Places, Table, UnitDir, UnitName};

/// A `.conf` in px's own words.
#[derive(Debug)]
pub struct Flow {
    /// The unit's table, to be read by its component.
    pub table: Table,
    /// Its broker, where its type has one; the table names it.
    pub broker: Option<Broker>,
}

/// Reads the `.conf` of a unit into what its TOML would say. `None` where it is of a type that px does not serve.
/// Everything that is wrong goes to `errors`, which are those of the table too.
pub fn read(places: &Places, name: &UnitName, path: &Path, errors: &Errors) -> Option<Flow> {
    let dir = match name.dir {
        UnitDir::Tx => FlowDir::Tx,
        UnitDir::Rx => FlowDir::Rx,
        UnitDir::Watch | UnitDir::Dispatch | UnitDir::Process => return None,
    };
    let (lines, lone) = lines::flow_and_lone(places, dir, path, errors);
    let kind = kind(dir, &lines)?;
    let reading = Reading::new(kind, path, &lines, errors);
    reading.check(&lone);
    Some(match kind {
        Kind::Sender => sender::read(reading),
        Kind::Receiver | Kind::Dropped => receiver::read(reading),
    })
}

/// What px makes of the flow, by its `type`; `None` where that is not served.
fn kind(dir: FlowDir, lines: &[lines::Line]) -> Option<Kind> {
    match (dir, lines::flow_type(lines)?.value()) {
        (FlowDir::Tx, "amqp") => Some(Kind::Sender),
        (FlowDir::Rx, "amqp") => Some(Kind::Receiver),
        (FlowDir::Rx, "single-file") => Some(Kind::Dropped),
        _ => None,
    }
}
