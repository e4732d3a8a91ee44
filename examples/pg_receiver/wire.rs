//! A connection in physical replication mode.
//!
//! `tokio-postgres` reads the connection string; it speaks no replication, so the connection is made here, with the
//! messages and the authentication of `postgres-protocol`. Inside the stream there are three messages
//! (PostgreSQL's documentation, "Streaming Replication Protocol"), each inside a CopyData; numbers are big-endian:
//!
//! ```text
//! 'd' length u32 | 'w' start u64 | the server's end u64 | its clock i64 | WAL
//! 'd' length u32 | 'k' the server's end u64 | its clock i64 | whether it wants an answer u8
//! 'd' length u32 | 'r' written u64 | flushed u64 | applied u64 | our clock i64 | whether we want an answer u8
//! ```

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net;
use tokio::time::{sleep, timeout};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::fallible_iterator::FallibleIterator;

use super::chunk::{PgLsn, Source};

/// What stands before the WAL in its message: 'd', the length, 'w', three numbers.
pub(crate) const WAL_AT: usize = 30;

/// The longest message has 128 KiB of WAL.
const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// What one read may bring: some of the longest messages.
const INPUT_BYTES: usize = 4 * MESSAGE_BYTES_MAX;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// From 1970 to 2000, where PostgreSQL's clock starts.
const EPOCH_SECONDS: u64 = 946_684_800;

/// Why there is no connection, or no longer.
#[derive(Debug)]
pub(crate) enum WireError {
    /// The way to the server.
    Lost(io::Error),
    /// The server said no: SQLSTATE and its words.
    Refused { state: String, text: String },
    /// One of the two does not speak the protocol, or not all of it.
    Protocol(String),
}

impl WireError {
    /// The slot is another connection's, perhaps one that the server has not missed yet.
    pub(crate) fn is_slot_in_use(&self) -> bool {
        matches!(self, Self::Refused { state, .. } if state == "55006")
    }

    /// It starts, or it stops, or it is full: it may be otherwise soon.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Refused { state, .. } => matches!(state.as_str(), "57P01" | "57P02" | "57P03" | "53300" | "55006"),
            Self::Lost(_) | Self::Protocol(_) => false,
        }
    }

    pub(crate) fn is_loss(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    fn refused(body: &ErrorResponseBody) -> Self {
        let (mut state, mut text) = (String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).replace('\n', " ");
            match field.type_() {
                b'C' => state = value,
                b'M' => text.insert_str(0, &value),
                b'D' => text.push_str(&format!(" ({value})")),
                _ => {}
            }
        }
        Self::Refused { state, text }
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(error) => write!(f, "no connection: {error}"),
            Self::Refused { state, text } => write!(f, "the server says: {text} [{state}]"),
            Self::Protocol(text) => f.write_str(text),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Lost(error)
    }
}

/// The way to the server.
#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).read(into),
            Self::Unix(stream) => (&*stream).read(into),
        }
    }

    fn write(&self, from: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*stream).write(from),
            Self::Unix(stream) => (&*stream).write(from),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }
}

/// A row of an answer, as text.
type Row = Vec<Option<String>>;

/// What IDENTIFY_SYSTEM and `wal_segment_size` say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity {
    pub(crate) source: Source,
    /// Up to here the server's own WAL is flushed.
    pub(crate) flushed: PgLsn,
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Watched for reading only: else each status would wake us once more, when the server takes it.
    socket: AsyncFd<Socket>,
    input: Vec<u8>,
    /// Where in `input` the bytes are that came and were not taken yet.
    unread: Range<usize>,
    output: BytesMut,
}

impl Connection {
    /// Connects and logs in, to the first host that answers.
    pub(crate) async fn open(config: &Config, application: &str) -> Result<Self, WireError> {
        if config.get_ssl_mode() == SslMode::Require {
            return Err(WireError::Protocol("sslmode=require: this receiver speaks no TLS".to_owned()));
        }
        let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        let late = |_| WireError::Lost(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer"));
        timeout(limit, async {
            let socket = watch(connect(config).await?)?;
            let (input, output) = (vec![0; INPUT_BYTES], BytesMut::new());
            let mut connection = Self { socket, input, unread: 0..0, output };
            connection.log_in(config, application).await?;
            Ok(connection)
        })
        .await
        .map_err(late)?
    }

    async fn log_in(&mut self, config: &Config, application: &str) -> Result<(), WireError> {
        let user = config.get_user().unwrap_or("postgres").to_owned();
        let password = config.get_password().map(<[u8]>::to_vec);
        let password = password.or_else(|| std::env::var("PGPASSWORD").ok().map(String::into_bytes));
        let mut parameters = vec![("user", user.as_str()), ("replication", "true"), ("application_name", application)];
        parameters.extend(config.get_dbname().map(|name| ("database", name)));
        parameters.extend(config.get_options().map(|options| ("options", options)));
        frontend::startup_message(parameters, &mut self.output)?;
        self.send().await?;
        loop {
            match self.message().await? {
                Message::AuthenticationOk => break,
                Message::AuthenticationSasl(body) => {
                    let mechanisms: Vec<_> = body.mechanisms().map(|name| Ok(name.to_owned())).collect()?;
                    if !mechanisms.iter().any(|name| name == sasl::SCRAM_SHA_256) {
                        return Err(WireError::Protocol(format!("the server wants one of {mechanisms:?}")));
                    }
                    self.scram(asked(password.as_ref(), &user)?).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), asked(password.as_ref(), &user)?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.output)?;
                    self.send().await?;
                }
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(asked(password.as_ref(), &user)?, &mut self.output)?;
                    self.send().await?;
                }
                Message::ErrorResponse(body) => return Err(WireError::refused(&body)),
                Message::NoticeResponse(_) => {}
                _ => return Err(WireError::Protocol("the server wants an authentication of another kind".to_owned())),
            }
        }
        self.until_ready().await.map(drop)
    }

    async fn scram(&mut self, password: &[u8]) -> Result<(), WireError> {
        let mut scram = sasl::ScramSha256::new(password, sasl::ChannelBinding::unsupported());
        frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), &mut self.output)?;
        self.send().await?;
        match self.message().await? {
            Message::AuthenticationSaslContinue(body) => scram.update(body.data())?,
            Message::ErrorResponse(body) => return Err(WireError::refused(&body)),
            _ => return Err(out_of_turn("after a password's first message")),
        }
        frontend::sasl_response(scram.message(), &mut self.output)?;
        self.send().await?;
        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => Ok(scram.finish(body.data())?),
            Message::ErrorResponse(body) => Err(WireError::refused(&body)),
            _ => Err(out_of_turn("after a password's last message")),
        }
    }

    /// Who the server is, and how far.
    pub(crate) async fn identify(&mut self) -> Result<Identity, WireError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        let field = |at: usize| rows.first()?.get(at)?.as_deref();
        let system = field(0).and_then(|text| text.parse().ok());
        let timeline = field(1).and_then(|text| text.parse().ok());
        let flushed = field(2).and_then(|text| text.parse().ok());
        let rows = self.query("SHOW wal_segment_size").await?;
        let size = rows.first().and_then(|row| row.first()).and_then(Option::as_deref);
        match (system, timeline, flushed, size.and_then(bytes_of)) {
            (Some(system), Some(timeline), Some(flushed), Some(segment_bytes)) => {
                Ok(Identity { source: Source { system, timeline, segment_bytes }, flushed })
            }
            _ => Err(WireError::Protocol(format!("IDENTIFY_SYSTEM answers {rows:?}, wal_segment_size is {size:?}"))),
        }
    }

    /// Makes the slot unless it is there.
    pub(crate) async fn ensure_slot(&mut self, slot: &str) -> Result<(), WireError> {
        match self.query(&format!("CREATE_REPLICATION_SLOT \"{slot}\" PHYSICAL RESERVE_WAL")).await {
            Err(WireError::Refused { state, .. }) if state == "42710" => Ok(()),
            made => made.map(drop),
        }
    }

    /// From here on the server streams its WAL from `start` on.
    pub(crate) async fn start(&mut self, slot: Option<&str>, start: PgLsn, timeline: u32) -> Result<(), WireError> {
        let slot = slot.map(|slot| format!("SLOT \"{slot}\" ")).unwrap_or_default();
        frontend::query(&format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}"), &mut self.output)?;
        self.send().await?;
        loop {
            let mut message = self.whole().await?;
            // CopyBothResponse, which only replication knows.
            if message[0] == b'W' {
                return Ok(());
            }
            match Message::parse(&mut message)? {
                Some(Message::ErrorResponse(body)) => return Err(WireError::refused(&body)),
                Some(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                _ => return Err(out_of_turn("after START_REPLICATION")),
            }
        }
    }

    /// Waits for more of the stream. Cancel safe.
    pub(crate) async fn fill(&mut self) -> Result<(), WireError> {
        // A message that began must have room for its rest.
        if self.input.len() - self.unread.end < MESSAGE_BYTES_MAX {
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        loop {
            let mut readable = self.socket.readable().await?;
            let room = &mut self.input[self.unread.end..];
            match readable.get_inner().read(room) {
                Ok(0) => {
                    return Err(WireError::Lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it")));
                }
                Ok(len) => {
                    // Less than asked for: there was no more. What comes now is an edge of its own.
                    if len < room.len() {
                        readable.clear_ready();
                    }
                    self.unread.end += len;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => readable.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next message, if all of it is here.
    pub(crate) fn next(&mut self) -> Result<Option<&mut [u8]>, WireError> {
        let unread = &self.input[self.unread.clone()];
        let Some((head, _)) = unread.split_first_chunk::<5>() else { return Ok(None) };
        let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if !(4..MESSAGE_BYTES_MAX).contains(&len) {
            return Err(WireError::Protocol(format!("a message of {len} bytes: is this a PostgreSQL server?")));
        }
        if unread.len() <= len {
            return Ok(None);
        }
        let start = self.unread.start;
        self.unread.start += len + 1;
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        Ok(Some(&mut self.input[start..=start + len]))
    }

    /// Tells the server what is received and what is durable.
    pub(crate) async fn status(&mut self, written: PgLsn, flushed: PgLsn, answer: bool) -> Result<(), WireError> {
        let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let clock = clock.saturating_sub(Duration::from_secs(EPOCH_SECONDS)).as_micros();
        self.output.put_slice(&[b'd', 0, 0, 0, 38, b'r']);
        self.output.put_u64(written.0);
        self.output.put_u64(flushed.0);
        // Nothing is applied here; but a server that waits for it (remote_apply) would wait for ever.
        self.output.put_u64(flushed.0);
        self.output.put_u64(u64::try_from(clock).unwrap_or_default());
        self.output.put_u8(u8::from(answer));
        self.send().await
    }

    /// Ends the stream.
    pub(crate) async fn done(&mut self) -> Result<(), WireError> {
        frontend::copy_done(&mut self.output);
        frontend::terminate(&mut self.output);
        self.send().await
    }

    async fn query(&mut self, query: &str) -> Result<Vec<Row>, WireError> {
        frontend::query(query, &mut self.output)?;
        self.send().await?;
        self.until_ready().await
    }

    /// The rows until the server is ready for a query, or its first error.
    async fn until_ready(&mut self) -> Result<Vec<Row>, WireError> {
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            let message = match (self.message().await, refused.take()) {
                // A server that refuses a log-in says so and closes.
                (Err(_), Some(error)) => return Err(error),
                (message, error) => {
                    refused = error;
                    message?
                }
            };
            match message {
                Message::DataRow(body) => {
                    let text =
                        |range: std::ops::Range<usize>| String::from_utf8_lossy(&body.buffer()[range]).into_owned();
                    rows.push(body.ranges().map(|range| Ok(range.map(text))).collect()?);
                }
                Message::ErrorResponse(body) => refused = refused.or_else(|| Some(WireError::refused(&body))),
                Message::ReadyForQuery(_) => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<Message, WireError> {
        let mut message = self.whole().await?;
        Message::parse(&mut message)?.ok_or_else(|| out_of_turn("a message cut short"))
    }

    async fn whole(&mut self) -> Result<BytesMut, WireError> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(BytesMut::from(&*message));
            }
            self.fill().await?;
        }
    }

    async fn send(&mut self) -> Result<(), WireError> {
        while !self.output.is_empty() {
            match self.socket.get_ref().write(&self.output) {
                Ok(len) => self.output.advance(len),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Thousands of statuses lie there: the server is very busy, or gone.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(1)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The server's error in a message of the stream.
pub(crate) fn error_in(message: &[u8]) -> WireError {
    match Message::parse(&mut BytesMut::from(message)) {
        Ok(Some(Message::ErrorResponse(body))) => WireError::refused(&body),
        _ => out_of_turn("an error that cannot be read"),
    }
}

fn out_of_turn(what: &str) -> WireError {
    WireError::Protocol(format!("the server speaks out of turn: {what}"))
}

fn asked<'a>(password: Option<&'a Vec<u8>>, user: &str) -> Result<&'a [u8], WireError> {
    let missing =
        || WireError::Protocol(format!("the server asks for {user}'s password: give password=.. or PGPASSWORD"));
    password.map(Vec::as_slice).ok_or_else(missing)
}

/// Tries the hosts in turn.
async fn connect(config: &Config) -> Result<Socket, WireError> {
    let ports = config.get_ports();
    let mut failed = None;
    for (at, host) in config.get_hosts().iter().enumerate() {
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        match connect_to(host, port).await {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                let host = match host {
                    Host::Tcp(name) => name.clone(),
                    Host::Unix(dir) => dir.display().to_string(),
                };
                failed = Some(io::Error::new(error.kind(), format!("{host} port {port}: {error}")));
            }
        }
    }
    Err(failed.map_or_else(|| WireError::Protocol("the connection string names no host".to_owned()), WireError::Lost))
}

async fn connect_to(host: &Host, port: u16) -> io::Result<Socket> {
    match host {
        Host::Tcp(name) => {
            let stream = net::TcpStream::connect((name.as_str(), port)).await?;
            // A status is one small packet that a commit waits for.
            stream.set_nodelay(true)?;
            stream.into_std().map(Socket::Tcp)
        }
        Host::Unix(dir) => {
            net::UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await?.into_std().map(Socket::Unix)
        }
    }
}

#[allow(
    deprecated,
    reason = "its successor is younger than the tokio that is asked for; a `Socket` owns its descriptor"
)]
fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

/// "16MB", in bytes.
fn bytes_of(size: &str) -> Option<u32> {
    let digits = size.find(|c: char| !c.is_ascii_digit()).unwrap_or(size.len());
    let unit = match &size[digits..] {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    let bytes = size[..digits].parse::<u32>().ok()?.checked_mul(unit)?;
    bytes.is_power_of_two().then_some(bytes)
}
