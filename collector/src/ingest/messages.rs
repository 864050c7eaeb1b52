//! Messages of a gRPC stream of requests, read without keeping what was read.
//!
//! tonic's own reader keeps a buffer as large as the largest message of its
//! stream: a gigabyte for ten thousand streams whose first batch has 100 KB. Here a
//! stream that waits keeps nothing, and a message that is larger than the window
//! of its stream is read when there is room for it; until then it stays with its
//! sender.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use prost::Message;
use proto::limits::MAX_MESSAGE_BYTES;
use proto::pb::tepui as pb;
use proto::status::Kind;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::body::Body;

use crate::listen::STREAM_WINDOW_BYTES;

/// What a message begins with: whether it is packed, and its length (gRPC over
/// HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;
/// How long a message waits for room. Agents wait a minute for an answer.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long a message that has room may bring nothing: others wait for it.
const STALLED: Duration = Duration::from_secs(10);

/// Memory for messages that are being read, of all streams.
#[derive(Clone, Debug)]
pub(super) struct Arriving {
    room: Arc<Semaphore>,
    kib: u32,
}

impl Arriving {
    /// Returns room for `bytes`. One message takes half of it at most.
    pub(super) fn new(bytes: usize) -> Self {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX >> 4).max(1);
        let permits = usize::try_from(kib).unwrap_or(usize::MAX >> 4);
        Self {
            room: Arc::new(Semaphore::new(permits)),
            kib,
        }
    }

    /// Waits for room; `None` when there is none for too long.
    fn take(&self, bytes: usize) -> Room {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let kib = kib.min(self.kib.div_ceil(2));
        let room = Arc::clone(&self.room).acquire_many_owned(kib);
        Box::pin(async move { timeout(PATIENCE, room).await.ok()?.ok() })
    }
}

/// A wait for room, which keeps its place in the queue.
type Room = BoxFuture<'static, Option<OwnedSemaphorePermit>>;

/// A request, and its share of the memory for such until it is unpacked.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) request: pb::PushRequest,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// Why a stream is not read on.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It broke, or is not one of requests.
    Broken(Status),
    /// There was no room for its next message for a while, or nothing came while
    /// it had some.
    NoRoom,
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        Self::Broken(status)
    }
}

/// The requests of one stream.
pub(super) struct Messages {
    body: Body,
    /// What came of messages that are not whole.
    received: Vec<u8>,
    arriving: Arriving,
    /// Room for the first message that is not whole.
    room: Option<OwnedSemaphorePermit>,
    /// Its wait for it.
    wait: Option<Room>,
    /// When something came last.
    heard: Instant,
}

impl Messages {
    /// Returns the requests that `body` brings.
    pub(super) fn new(body: Body, arriving: Arriving) -> Self {
        Self {
            body,
            received: Vec::new(),
            arriving,
            room: None,
            wait: None,
            heard: Instant::now(),
        }
    }

    /// When something came last, be it a part of a message.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// The next request; `None` at the end of the stream. Nothing is lost when it is
    /// dropped before it is done.
    ///
    /// # Errors
    ///
    /// [`ReadError`]; the stream cannot be read on.
    pub(super) async fn next(&mut self) -> Result<Option<Arrived>, ReadError> {
        loop {
            if let Some(length) = self.length()? {
                if let Some(request) = self.take(length)? {
                    let room = self.room.take();
                    return Ok(Some(Arrived { request, room }));
                }
                let window = usize::try_from(STREAM_WINDOW_BYTES).unwrap_or(usize::MAX);
                if length > window && self.room.is_none() {
                    let wait = self.wait.get_or_insert_with(|| self.arriving.take(length));
                    let room = wait.await;
                    self.wait = None;
                    self.room = Some(room.ok_or(ReadError::NoRoom)?);
                }
            }
            let frame = match self.room {
                None => self.body.frame().await,
                Some(_) => timeout(STALLED, self.body.frame())
                    .await
                    .map_err(|_elapsed| ReadError::NoRoom)?,
            };
            match frame {
                Some(frame) => {
                    self.heard = Instant::now();
                    if let Ok(data) = frame?.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
                None if self.received.is_empty() => return Ok(None),
                None => return Err(Kind::Invalid.status("the stream ends within a request"))?,
            }
        }
    }

    /// Length of the first message, once that much came.
    fn length(&self) -> Result<Option<usize>, Status> {
        let Some(prefix) = self.received.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let [is_packed, length @ ..] = *prefix;
        if is_packed != 0 {
            return Err(Status::unimplemented("packed messages are not read here"));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        match length > MAX_MESSAGE_BYTES {
            true => Err(Kind::Invalid.status(format!(
                "a request of {length} bytes is larger than {MAX_MESSAGE_BYTES}"
            ))),
            false => Ok(Some(length)),
        }
    }

    /// The first message, of `length` bytes, if it is whole.
    fn take(&mut self, length: usize) -> Result<Option<pb::PushRequest>, Status> {
        let rest = self.received.get(PREFIX_BYTES..).unwrap_or_default();
        let Some((message, rest)) = rest.split_at_checked(length) else {
            return Ok(None);
        };
        let request = pb::PushRequest::decode(message)
            .map_err(|error| Kind::Invalid.status(format!("request not readable: {error}")))?;
        self.received = rest.to_vec();
        Ok(Some(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::{Bytes, Frame};

    fn request(bytes: usize) -> pb::PushRequest {
        pb::PushRequest {
            body: Some(pb::push_request::Body::Batch(pb::Batch {
                sequence: 7,
                body_zstd: vec![5; bytes],
                ..pb::Batch::default()
            })),
        }
    }

    fn framed(request: &pb::PushRequest) -> Vec<u8> {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap();
        [&[0], &length.to_be_bytes()[..], &message].concat()
    }

    fn messages(bytes: &[u8], chunk: usize) -> Messages {
        let chunks: Vec<Result<Frame<Bytes>, Status>> = bytes
            .chunks(chunk)
            .map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = Body::new(StreamBody::new(stream::iter(chunks)));
        Messages::new(body, Arriving::new(64 << 10))
    }

    #[tokio::test]
    async fn requests_come_whole_however_they_are_cut_and_nothing_stays() {
        let sent = [request(0), request(100_000), request(3)];
        let bytes: Vec<u8> = sent.iter().flat_map(framed).collect();
        for chunk in [1, 7, 4_096, bytes.len()] {
            let mut messages = messages(&bytes, chunk);
            for expected in &sent {
                let arrived = messages.next().await.unwrap().unwrap();
                assert_eq!(&arrived.request, expected);
            }
            assert!(messages.next().await.unwrap().is_none());
            assert_eq!(messages.received.capacity(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_no_request_ends_the_stream() {
        let whole = framed(&request(100));
        let too_long = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap().to_be_bytes();
        for (bytes, reason) in [
            (&whole[..50], "ends within"),
            (&[1, 0, 0, 0, 0], "packed"),
            (&[&[0], &too_long[..]].concat(), "larger than"),
            (&[0, 0, 0, 0, 1, 255], "not readable"),
        ] {
            match messages(bytes, 64).next().await {
                Err(ReadError::Broken(error)) => {
                    assert!(error.message().contains(reason), "{error}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_message_waits_for_room_and_a_small_one_does_not() {
        let bytes = [request(100_000), request(5)].map(|request| framed(&request));
        let mut first = messages(&bytes[0], 1_000);
        let arriving = first.arriving.clone();
        let arrived = first.next().await.unwrap().unwrap();
        let beside = |bytes: &[u8]| {
            let mut beside = messages(bytes, 1_000);
            beside.arriving = arriving.clone();
            beside
        };
        // Each takes half of the room, however large it is.
        let second = beside(&bytes[0]).next().await.unwrap();
        let waited = beside(&bytes[0]).next().await;
        assert!(matches!(waited, Err(ReadError::NoRoom)), "{waited:?}");
        assert!(beside(&bytes[1]).next().await.unwrap().is_some());
        drop((arrived, second));
        assert!(beside(&bytes[0]).next().await.unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_room_and_sends_nothing_gives_it_back() {
        let length = u32::try_from(MAX_MESSAGE_BYTES).unwrap().to_be_bytes();
        let prefix = Bytes::from([&[0], &length[..]].concat());
        let chunks = stream::iter([Ok::<_, Status>(Frame::data(prefix))]);
        let body = Body::new(StreamBody::new(chunks.chain(stream::pending())));
        let arriving = Arriving::new(64 << 10);
        let mut stalled = Messages::new(body, arriving.clone());
        let ended = stalled.next().await;
        assert!(matches!(ended, Err(ReadError::NoRoom)), "{ended:?}");
        assert!(stalled.received.capacity() < 1024, "made for what came");
        drop(stalled);
        assert_eq!(arriving.room.available_permits(), 64);
    }
}
