//! From a file to the messages that announce it.

use jiff::Timestamp;

use super::Watched;
use crate::message::{
    AnnounceAs, Announcement, DigestOf, EncodeError, Envelope, Format, Headers, Identity, Method, ProductPath,
    UnitHeaders, encode,
};
use crate::spool::inventory::Version;
use crate::spool::tree::{Digests, Needs};

/// The digests that these formats need.
pub(super) fn needs(announce: &[AnnounceAs], identity: &Method) -> Needs {
    let mut needs = Needs::default();
    for how in announce {
        match method(how, identity) {
            Some(Method::Md5) => needs.md5 = true,
            Some(Method::Sha512) => needs.sha512 = true,
            _ => {}
        }
    }
    needs
}

/// The digest of the content that a format carries, if it carries one.
fn method(how: &AnnounceAs, identity: &Method) -> Option<Method> {
    match how.format {
        Format::Exp => None,
        Format::V00 if how.digest == DigestOf::Name => None,
        Format::V00 => Some(Method::Md5),
        Format::V02 | Format::V03 => Some(identity.clone()),
    }
}

/// What announces one version of a file.
pub(super) struct Told {
    /// One message per format, in the configured order.
    pub(super) envelopes: Vec<Envelope>,
    /// Formats that cannot carry it, and why.
    pub(super) unnameable: Vec<EncodeError>,
    /// A key lost words at its end.
    pub(super) is_key_cut: bool,
    /// Headers that did not fit.
    pub(super) left_out: Vec<String>,
    /// The path as announced.
    pub(super) path: ProductPath,
}

/// Announces one version of a file in each format of its tree.
pub(super) fn tell(
    tree: &Watched,
    (unit, identity): (&UnitHeaders, &Method),
    path: &[u8],
    version: Version,
    digests: &Digests,
    now: Timestamp,
) -> Told {
    let mut announcement = Announcement {
        base: tree.base.clone(),
        path: ProductPath([tree.prefix.as_slice(), path].concat()),
        identity: None,
        size: Some(version.size),
        time: Some(now),
        mtime: Timestamp::from_nanosecond(i128::from(version.mtime_ns)).ok(),
        headers: Headers::new(),
    };
    let mut told = Told {
        envelopes: Vec::with_capacity(tree.announce.len()),
        unnameable: Vec::new(),
        is_key_cut: false,
        left_out: Vec::new(),
        path: announcement.path.clone(),
    };
    for how in &tree.announce {
        announcement.identity = method(how, identity).and_then(|method| content(method, digests));
        match encode(&announcement, how, unit, now) {
            Ok(encoded) => {
                told.envelopes.push(encoded.envelope);
                told.is_key_cut |= encoded.is_key_cut;
                told.left_out.extend(encoded.left_out);
            }
            Err(error) => told.unnameable.push(error),
        }
    }
    told
}

fn content(method: Method, digests: &Digests) -> Option<Identity> {
    let digest = match method {
        Method::Md5 => digests.md5.as_ref(),
        Method::Sha512 => digests.sha512.as_ref(),
        _ => None,
    };
    digest.map(|hex| Identity::of_content(method, hex.clone()))
}
