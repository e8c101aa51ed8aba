//! Who gets a product, and how urgently: by the clients' own masks, and by the routing table where one is used.

use std::sync::Arc;

use crate::config::{Client, ClientKind, RoutingTable};
use crate::message::{Masks, ingest_name};

/// In place of a priority that is none: neither first nor last.
const PRIORITY_ELSE: u8 = 3;
/// Bulletins of this name are kept and go to nobody.
const PROBLEM: &[u8] = b"PROBLEM_BULLETIN";

/// How the clients of a product are found.
#[derive(Debug, Clone)]
pub enum Routing {
    /// Every sender and filter whose own masks accept it.
    Masks,
    /// Those that the table names for its key, as far as their own masks accept it.
    Table(Arc<RoutingTable>),
}

/// Finds the clients of products.
#[derive(Debug)]
pub struct Router {
    /// The receiver's own masks, whose groups make the key.
    pub masks: Masks,
    /// How.
    pub routing: Routing,
    /// Everybody whom products can be linked to.
    pub clients: Vec<Client>,
}

/// Where a product goes.
#[derive(Debug, Default)]
pub struct Routed<'a> {
    /// Its clients.
    pub clients: Vec<&'a Client>,
    /// 0 is first, 5 last.
    pub priority: u8,
    /// It is kept in the database and not queued, not even for the receivers that are fed.
    pub is_kept_only: bool,
    /// Why it has no clients, or what is odd.
    pub warnings: Vec<String>,
}

impl Router {
    /// The clients of a product by its ingest name.
    pub fn route(&self, name: &[u8]) -> Routed<'_> {
        let mut routed = Routed {
            priority: ingest_name::priority(name).unwrap_or(PRIORITY_ELSE),
            is_kept_only: name.windows(PROBLEM.len()).any(|part| part == PROBLEM),
            ..Routed::default()
        };
        match &self.routing {
            Routing::Masks => {
                let all = self
                    .clients
                    .iter()
                    .filter(|client| client.kind != ClientKind::Transceiver);
                routed.clients.extend(all);
            }
            Routing::Table(table) => self.by_table(table, name, &mut routed),
        }
        routed.clients.retain(|client| client.masks.accepts(name));
        routed
    }

    fn by_table<'a>(&'a self, table: &RoutingTable, name: &[u8], routed: &mut Routed<'a>) {
        let shown = String::from_utf8_lossy(name);
        let key = match ingest_name::routing_key(&self.masks, name) {
            Ok(Some(key)) => key,
            Ok(None) => {
                let warning = format!("Key not generated (no accept match) with {shown}");
                routed.warnings.push(warning);
                return;
            }
            Err(undecided) => {
                routed
                    .warnings
                    .push(format!("Key not generated ({undecided}) with {shown}"));
                return;
            }
        };
        let Some(route) = table.route(&key) else {
            let key = String::from_utf8_lossy(&key);
            let warning = format!("Key not in routing table ({key} from {shown})");
            routed.warnings.push(warning);
            return;
        };
        routed.priority = route.priority;
        // In the clients' own order, whatever the table's is.
        let named = self
            .clients
            .iter()
            .filter(|client| route.clients.contains(&client.name));
        routed.clients.extend(named);
    }
}
