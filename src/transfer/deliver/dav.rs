//! Delivery by HTTP `PUT`, and by WebDAV.
//!
//! With WebDAV a product is put under a temporary name and moved, which replaces atomically as far as the server does;
//! collections that are missing are made. Plain `PUT` writes the final name: what readers see meanwhile, and whether
//! directories are made, is the server's. Times and permissions cannot be said.

use url::Url;

use super::{Context, HttpDestination, Parcel};
use crate::message::{Fault, ProductPath};
use crate::transfer::http::{Answer, Ask, Web};
use crate::transfer::{Kind, TransferError};

/// A client of one web server.
#[derive(Debug)]
pub(super) struct Session {
    web: Web,
    base: Url,
    webdav: bool,
    /// A connection may be open from before.
    is_warm: bool,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Put,
    Make,
    Move,
}

impl Session {
    pub(super) async fn new(destination: &HttpDestination) -> Result<Session, TransferError> {
        Ok(Session {
            web: Web::new(&destination.peer, destination.url.scheme() == "https").await?,
            base: destination.url.clone(),
            webdav: destination.webdav,
            is_warm: false,
        })
    }

    pub(super) async fn put(&mut self, parcel: &Parcel, context: &Context) -> Result<(), TransferError> {
        let mut result = self.try_put(parcel, context).await;
        let may_be_stale = result.as_ref().is_err_and(|err| err.kind == Kind::Broken);
        if may_be_stale && self.is_warm {
            // A server may end a kept connection in the very moment of its next use: that is no failure yet.
            result = self.try_put(parcel, context).await;
        }
        self.is_warm = result.is_ok();
        result
    }

    async fn try_put(&self, parcel: &Parcel, context: &Context) -> Result<(), TransferError> {
        let doing = format!("cannot put {} on {}", parcel.shown(), self.base);
        let temporary = context.temporary_name(parcel);
        let written = self.url(parcel, temporary.as_deref().unwrap_or(&parcel.name));
        let mut answer = self.send(parcel, context, &written, &doing).await?;
        // nginx says 500 where the directory is missing.
        let may_be_missing = self.webdav && matches!(answer.status, 404 | 409 | 500);
        if may_be_missing && context.options.makes_directories && self.make_collections(parcel, &doing).await? {
            answer = self.send(parcel, context, &written, &doing).await?;
        }
        judge(&answer, Doing::Put, &doing)?;
        if temporary.is_none() {
            return Ok(());
        }
        let moved = self
            .ask("MOVE", written.clone(), Some(self.url(parcel, &parcel.name)), &doing)
            .await?;
        let result = judge(&moved, Doing::Move, &doing);
        if result.is_err() {
            // Nothing lost: what cannot be removed is replaced by the next try.
            let _ = self.ask("DELETE", written, None, &doing).await;
        }
        result
    }

    async fn send(&self, parcel: &Parcel, context: &Context, url: &Url, doing: &str) -> Result<Answer, TransferError> {
        let ask = Ask {
            doing,
            method: "PUT",
            url: url.clone(),
            destination: None,
            body: Some((context.chunks(parcel)?, parcel.size)),
        };
        self.web.ask(ask).await
    }

    async fn ask(
        &self,
        method: &'static str,
        url: Url,
        destination: Option<Url>,
        doing: &str,
    ) -> Result<Answer, TransferError> {
        let ask = Ask {
            doing,
            method,
            url,
            destination,
            body: None,
        };
        self.web.ask(ask).await
    }

    /// Makes what is missing below where the destination begins; whether anything was.
    async fn make_collections(&self, parcel: &Parcel, doing: &str) -> Result<bool, TransferError> {
        let mut has_made = false;
        let mut path = self.beginning(parcel).to_owned();
        for part in parcel.parts() {
            path += &format!("{}/", ProductPath(part.to_vec()).escaped());
            let answer = self.ask("MKCOL", self.at(&path), None, doing).await?;
            judge(&answer, Doing::Make, doing)?;
            has_made |= answer.status != 405;
        }
        Ok(has_made)
    }

    fn beginning(&self, parcel: &Parcel) -> &str {
        match parcel.is_absolute() {
            true => "/",
            false => self.base.path(),
        }
    }

    /// Of this name in the parcel's directory.
    fn url(&self, parcel: &Parcel, name: &[u8]) -> Url {
        let escaped = |part: &[u8]| ProductPath(part.to_vec()).escaped();
        let parts: Vec<String> = parcel.parts().chain([name]).map(escaped).collect();
        self.at(&format!("{}{}", self.beginning(parcel), parts.join("/")))
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(path);
        url
    }
}

fn judge(answer: &Answer, doing: Doing, what: &str) -> Result<(), TransferError> {
    let Some((fault, kind, why)) = classify(answer.status, doing) else {
        return Ok(());
    };
    let mut err = TransferError::new(fault, kind, format!("{what}: {}{why}", answer.shown));
    if matches!(kind, Kind::Unavailable | Kind::Full) {
        err.retry_after = answer.retry_after;
    }
    Err(err)
}

/// Whose fault a status is; `None` when it is a success. What is closed, missing or not served concerns the directory:
/// everything that goes there waits for the operator.
fn classify(status: u16, doing: Doing) -> Option<(Fault, Kind, &'static str)> {
    let directory = |why| Some((Fault::Endpoint, Kind::Forbidden, why));
    match status {
        200 | 201 | 204 => None,
        // It is there already.
        405 if doing == Doing::Make => None,
        401 | 407 => Some((
            Fault::Endpoint,
            Kind::LoginRefused,
            ": the server does not know px by the user and password that it has",
        )),
        403 => directory(""),
        404 | 409 => directory(": its directory is missing"),
        405 => directory(": nothing can be put there"),
        423 => directory(": somebody has locked it"),
        300..=399 => directory(": it is redirected; set destination to where it is"),
        408 => Some((Fault::Endpoint, Kind::TimedOut, "")),
        413 => Some((Fault::Message, Kind::TooLarge, "")),
        425 | 429 => Some((Fault::Endpoint, Kind::Unavailable, "")),
        400..=499 => Some((Fault::Message, Kind::Rejected, "")),
        507 => Some((Fault::Endpoint, Kind::Full, "")),
        500..=599 => Some((Fault::Endpoint, Kind::Unavailable, "")),
        // 1xx, 202 and 207, which promise nothing yet, or no status of HTTP at all.
        _ => Some((Fault::Endpoint, Kind::Broken, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_class() {
        use Fault::{Endpoint, Message};
        let table = [
            (200, None),
            (201, None),
            (204, None),
            (202, Some((Endpoint, Kind::Broken))),
            (207, Some((Endpoint, Kind::Broken))),
            (301, Some((Endpoint, Kind::Forbidden))),
            (400, Some((Message, Kind::Rejected))),
            (401, Some((Endpoint, Kind::LoginRefused))),
            (403, Some((Endpoint, Kind::Forbidden))),
            (404, Some((Endpoint, Kind::Forbidden))),
            (405, Some((Endpoint, Kind::Forbidden))),
            (408, Some((Endpoint, Kind::TimedOut))),
            (409, Some((Endpoint, Kind::Forbidden))),
            (413, Some((Message, Kind::TooLarge))),
            (414, Some((Message, Kind::Rejected))),
            (423, Some((Endpoint, Kind::Forbidden))),
            (429, Some((Endpoint, Kind::Unavailable))),
            (500, Some((Endpoint, Kind::Unavailable))),
            (507, Some((Endpoint, Kind::Full))),
            (999, Some((Endpoint, Kind::Broken))),
        ];
        for (status, class) in table {
            let is = classify(status, Doing::Put).map(|(fault, kind, _)| (fault, kind));
            assert_eq!(is, class, "{status}");
        }
        assert_eq!(classify(405, Doing::Make), None, "the collection is there");
    }
}
