//! `px post`: announces files by hand, as a watcher would.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use jiff::Timestamp;

use super::broker;
use super::selection::{self, Selection};
use super::{REFUSED, USAGE, plain, say};
use crate::broker::{Confirmed, Returns};
use crate::config::Places;
use crate::flow::publish::{Options, Publisher};
use crate::message::{
    AnnounceAs, Announcement, ContentHasher, DigestOf, Envelope, Format, Identity, Method, ProductPath, Topology,
    UnitHeaders, encode,
};
use crate::spool::resend::products;

/// What to announce, and where.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A broker of px.toml, or a URL without a password
    broker: String,
    /// The files
    #[arg(required_unless_present = "from_db", conflicts_with = "from_db")]
    files: Vec<PathBuf>,
    /// Announce products of the database, by --since and its kin, in place of files; the root is the database then
    #[arg(long, requires = "since")]
    from_db: bool,
    /// Products received since then, in UTC: HH:MM[:SS], the last that has passed; "YYYY-MM-DD HH:MM[:SS]"; RFC 3339;
    /// or how long ago, as 2h
    #[arg(long, value_name = "TIME", value_parser = selection::time, requires = "from_db")]
    since: Option<Timestamp>,
    #[command(flatten)]
    selection: Selection,
    /// The directory that the URL stands for; this one when absent
    #[arg(long, conflicts_with = "from_db")]
    root: Option<PathBuf>,
    /// The URL of that directory; keys have its path too: http://h/db/ makes v02.post.db.…
    #[arg(long)]
    url: String,
    /// The exchange; the broker's own when absent
    #[arg(long)]
    exchange: Option<String>,
    /// exp, v00, v02 or v03; repeat it for several, published in that order
    #[arg(long, value_parser = format_name, default_values = ["v02"])]
    format: Vec<Format>,
    /// What the key begins with, in place of the format's usual beginning
    #[arg(long)]
    key: Option<String>,
    /// Give up when nothing is confirmed within this many seconds
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

fn format_name(text: &str) -> Result<Format, String> {
    Format::from_name(text).ok_or_else(|| "accepted: exp, v00, v02, v03".to_owned())
}

/// Announces every file, confirmed. 1 when one could not be, or when nobody is bound to see it.
pub fn run(places: &Places, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.selection.is_used() && !arguments.from_db {
        eprintln!("px: --until, --match and --from choose from the database: they need --from-db");
        return Ok(ExitCode::from(USAGE));
    }
    let broker = broker::find(places, &arguments.broker)?;
    let exchange = broker::exchange(&broker, arguments.exchange.as_deref())?;
    let how: Vec<AnnounceAs> = arguments
        .format
        .iter()
        .map(|format| AnnounceAs::new(*format, arguments.key.as_deref(), None))
        .collect::<Result<_, _>>()?;
    let work = match arguments.since {
        Some(since) => match of_database(places, arguments, since)? {
            Ok(work) => work,
            Err(why) => {
                eprintln!("px: {why}");
                return Ok(ExitCode::from(USAGE));
            }
        },
        None => Work::of_files(arguments),
    };
    if work.files.is_empty() {
        say("0 products");
        return Ok(ExitCode::from(if work.is_whole { 0 } else { REFUSED }));
    }
    let prepare = |file: &Path| {
        announce(file, &work.root, &arguments.url, &how).with_context(|| format!("cannot announce {}", file.display()))
    };
    // All of what was named, or nothing; the database may lose a product meanwhile, which keeps back no other.
    let mut prepared = Vec::new();
    if !arguments.from_db {
        for file in &work.files {
            prepared.push((file.as_path(), Ok(prepare(file)?)));
        }
    }
    let of_database = work.files.iter().map(|file| (file.as_path(), prepare(file)));
    let messages: Messages<'_> = match arguments.from_db {
        true => Box::new(of_database),
        false => Box::new(prepared.into_iter()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let unit = broker::passing_unit(places, "post")?;
        let topology = Topology {
            exchanges: vec![exchange.clone()],
            ..Topology::default()
        };
        let publisher = Publisher::start(&unit, broker, topology, Options::default());
        let limit = Duration::from_secs(arguments.timeout);
        let publish = publish(&publisher, &exchange.name, messages, limit);
        tokio::select! {
            code = publish => code,
            () = broker::complain(&unit) => unreachable!("it ends with the unit"),
        }
    })?;
    Ok(if work.is_whole { code } else { ExitCode::from(REFUSED) })
}

type Messages<'a> = Box<dyn Iterator<Item = (&'a Path, anyhow::Result<Vec<Envelope>>)> + 'a>;

/// What is to be announced.
struct Work {
    root: PathBuf,
    files: Vec<PathBuf>,
    /// Whether the whole database could be read.
    is_whole: bool,
}

impl Work {
    fn of_files(arguments: &Arguments) -> Work {
        Work {
            root: arguments.root.clone().unwrap_or_else(|| PathBuf::from(".")),
            files: arguments.files.clone(),
            is_whole: true,
        }
    }
}

/// The products that were chosen; the inner error is one of usage.
fn of_database(places: &Places, arguments: &Arguments, since: Timestamp) -> anyhow::Result<Result<Work, String>> {
    let span = match arguments.selection.span(since, Timestamp::now()) {
        Ok(span) => span,
        Err(why) => return Ok(Err(why)),
    };
    let root = places.spool.join("db");
    let found = products(&root, span, |name| arguments.selection.wants(name))?;
    for unread in &found.unread {
        eprintln!("px: {}", plain(&unread.line()));
    }
    let files = found.products.iter();
    Ok(Ok(Work {
        files: files
            .map(|product| root.join(OsStr::from_bytes(&product.path)))
            .collect(),
        root,
        is_whole: found.unread.is_empty(),
    }))
}

/// Publishes in order; gives up when one is not confirmed in time.
async fn publish(
    publisher: &Publisher,
    exchange: &str,
    messages: Messages<'_>,
    limit: Duration,
) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for (file, envelopes) in messages {
        let envelopes = match envelopes {
            Ok(envelopes) => envelopes,
            Err(error) => {
                eprintln!("px: {}", plain(&format!("{error:#}")));
                code = ExitCode::from(REFUSED);
                continue;
            }
        };
        let file = plain(&file.display().to_string());
        for envelope in envelopes {
            let key = plain(&envelope.key);
            let confirmed = async { publisher.submit(exchange, envelope, Returns::Known).await.await };
            let confirmed = tokio::time::timeout(limit, confirmed).await;
            match confirmed.with_context(|| format!("not confirmed within {} s", limit.as_secs()))?? {
                Confirmed::Routed => say(format_args!("{file} announced as {key}")),
                Confirmed::Returned => {
                    eprintln!("px: {file} announced as {key}, but no queue is bound for it");
                    code = ExitCode::from(REFUSED);
                }
            }
        }
    }
    Ok(code)
}

fn announce(file: &Path, root: &Path, url: &str, how: &[AnnounceAs]) -> anyhow::Result<Vec<Envelope>> {
    let (root, path) = (root.canonicalize()?, file.canonicalize()?);
    let below = path
        .strip_prefix(&root)
        .with_context(|| format!("it is not below {}", root.display()))?;
    let url: url::Url = url.parse().context("the URL")?;
    let (base, prefix) = (url.join("/")?, url.path().trim_matches('/'));
    let mut whole = prefix.as_bytes().to_vec();
    if !whole.is_empty() {
        whole.push(b'/');
    }
    whole.extend_from_slice(below.as_os_str().as_bytes());
    let mut announcement = Announcement::new(base.as_str(), ProductPath(whole))?;
    let mut content = File::open(&path)?;
    let mut hasher = ContentHasher::new(&Method::Md5).context("md5")?;
    let (mut buffer, mut size) = (vec![0; 64 << 10], 0);
    loop {
        let read = content.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
    announcement.size = Some(size);
    announcement.identity = Some(Identity {
        method: Method::Md5,
        value: hasher.finish(),
        of: DigestOf::Content,
    });
    let now = Timestamp::now();
    announcement.time = Some(now);
    announcement.mtime = content.metadata()?.modified()?.try_into().ok();
    how.iter()
        .map(|how| Ok(encode(&announcement, how, &UnitHeaders::default(), now)?.envelope))
        .collect()
}
