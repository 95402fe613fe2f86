//! The framing of a gRPC message: a flag, four bytes of length, the message. One message in, one message out.
//!
//! A message that came in one HTTP/2 frame is decoded where it lies; a value in it is not copied.

use std::{error::Error, pin::Pin};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt as _;
use prost::Message;

use crate::api::error::{ApiError, ErrorCode};

/// The bytes before a message.
const HEAD_BYTES: usize = 5;

/// How much room is made for a message before its bytes have come.
const AHEAD_BYTES: usize = 64 << 10;

/// Reads the one message of a request, which may have `max_bytes`.
///
/// # Errors
/// When the body breaks a limit, or does not hold exactly one message.
pub async fn read<B>(mut body: B, max_bytes: usize) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut gathered = Gathered { bytes: Bytes::new(), more: BytesMut::new(), wanted_bytes: None };
    while let Some(frame) = Pin::new(&mut body).frame().await {
        let frame = frame.map_err(|error| broken_off(error.into()))?;
        if let Ok(data) = frame.into_data() {
            gathered.push(data, max_bytes)?;
        }
        if body.is_end_stream() {
            break;
        }
    }
    gathered.finish()
}

/// What has come so far: one piece as it came, or several put together.
struct Gathered {
    bytes: Bytes,
    more: BytesMut,
    /// Bytes of the head and the message, once the head is there.
    wanted_bytes: Option<usize>,
}

impl Gathered {
    fn as_slice(&self) -> &[u8] {
        if self.more.is_empty() { &self.bytes } else { &self.more }
    }

    fn push(&mut self, data: Bytes, max_bytes: usize) -> Result<(), ApiError> {
        if self.as_slice().is_empty() {
            self.bytes = data;
        } else {
            if self.more.is_empty() {
                let room = self.wanted_bytes.unwrap_or(HEAD_BYTES).min(AHEAD_BYTES);
                self.more = BytesMut::with_capacity(room.max(self.bytes.len() + data.len()));
                self.more.extend_from_slice(&self.bytes);
                self.bytes = Bytes::new();
            }
            self.more.extend_from_slice(&data);
        }
        if self.wanted_bytes.is_none()
            && let Some(head) = self.as_slice().first_chunk::<HEAD_BYTES>()
        {
            self.wanted_bytes = Some(HEAD_BYTES + message_len(*head, max_bytes)?);
        }
        if self.wanted_bytes.is_some_and(|wanted| self.as_slice().len() > wanted) {
            return Err(invalid(
                "the body goes on behind its message; this call takes one message",
            ));
        }
        Ok(())
    }

    fn finish(self) -> Result<Bytes, ApiError> {
        let have = self.as_slice().len();
        match self.wanted_bytes {
            None if have == 0 => Err(invalid("the request has no message: its body is empty")),
            None => Err(invalid(format!(
                "the body ends after {have} bytes, within the {HEAD_BYTES} bytes before a message"
            ))),
            Some(wanted) if have < wanted => Err(invalid(format!(
                "the body ends after {} of the {} bytes that its message announces",
                have - HEAD_BYTES,
                wanted - HEAD_BYTES
            ))),
            Some(_) => {
                let mut whole = if self.more.is_empty() { self.bytes } else { self.more.freeze() };
                Ok(whole.split_off(HEAD_BYTES))
            }
        }
    }
}

/// The messages of a request that streams them, one after the other.
pub struct Frames<B> {
    body: B,
    /// What has come and was not taken.
    buf: BytesMut,
    max_bytes: usize,
}

impl<B> Frames<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Reads messages of at most `max_bytes` each.
    pub fn new(body: B, max_bytes: usize) -> Self {
        Self { body, buf: BytesMut::new(), max_bytes }
    }

    /// Returns the next message, or `None` at the end.
    ///
    /// # Errors
    /// When the body breaks a limit, or ends within a message.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(head) = self.buf.first_chunk::<HEAD_BYTES>() {
                let len = message_len(*head, self.max_bytes)?;
                if self.buf.len() >= HEAD_BYTES + len {
                    let mut message = self.buf.split_to(HEAD_BYTES + len).freeze();
                    return Ok(Some(message.split_off(HEAD_BYTES)));
                }
            }
            match Pin::new(&mut self.body).frame().await {
                Some(Ok(frame)) => {
                    self.buf.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                Some(Err(error)) => return Err(broken_off(error.into())),
                None if self.buf.is_empty() => return Ok(None),
                None => {
                    let left = self.buf.len();
                    return Err(invalid(format!("the body ends {left} bytes into a message")));
                }
            }
        }
    }
}

fn message_len(head: [u8; HEAD_BYTES], max_bytes: usize) -> Result<usize, ApiError> {
    let [flag, a, b, c, d] = head;
    match flag {
        0 => {}
        1 => {
            return Err(invalid(
                "the message is marked as compressed, and this node takes uncompressed ones only",
            ));
        }
        _ => return Err(invalid(format!("the message begins with the flag {flag}; 0 is allowed"))),
    }
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > max_bytes {
        let detail = format!(
            "the message announces {len} bytes; {max_bytes} are allowed, which is \
             node.storage.maxObjectBytes and room for the other fields"
        );
        return Err(ApiError::new(ErrorCode::TooLarge, detail));
    }
    Ok(len)
}

/// A body's error is one of its limits, or the connection's.
fn broken_off(error: Box<dyn Error + Send + Sync>) -> ApiError {
    match error.downcast::<ApiError>() {
        Ok(error) => *error,
        Err(error) => invalid(format!("the request's body broke off: {error}")),
    }
}

fn invalid(detail: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::InvalidArgument, detail)
}

/// Decodes the message of the rpc `kind`.
///
/// # Errors
/// Says what is wrong with it, with the path of the field.
pub fn decode<M: Message + Default>(kind: &str, message: Bytes) -> Result<M, ApiError> {
    M::decode(message)
        .map_err(|error| invalid(format!("the message of {kind} cannot be read: {error}")))
}

/// Encodes a message with its head.
pub fn encode(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut buf = BytesMut::with_capacity(HEAD_BYTES + len);
    buf.put_u8(0);
    // An answer is an object and little else, and an object has far less than 4 GiB.
    buf.put_u32(len as u32);
    // It fails only where the buffer cannot grow.
    let _ = message.encode(&mut buf);
    buf.freeze()
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::proto::groupstorage::GetObjectRequest;

    /// Reads a body that comes in these pieces.
    fn read_pieces(pieces: &[&[u8]], max_bytes: usize) -> Result<Bytes, ApiError> {
        let frames = pieces.iter().map(|piece| {
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::copy_from_slice(piece)))
        });
        let body = StreamBody::new(stream::iter(frames.collect::<Vec<_>>()));
        read(body, max_bytes).now_or_never().unwrap()
    }

    #[test]
    fn a_message_reads_back_however_it_was_cut() {
        let message = GetObjectRequest { id: "item:1".into() };
        let bytes = encode(&message);
        for cut in 0..=bytes.len() {
            for second in cut..=bytes.len() {
                let pieces = [&bytes[..cut], &bytes[cut..second], &bytes[second..]];
                let read = read_pieces(&pieces, 100).unwrap();
                assert_eq!(decode::<GetObjectRequest>("get", read).unwrap(), message);
            }
        }
        assert_eq!(read_pieces(&[&encode(&())], 0).unwrap().len(), 0);
    }

    #[test]
    fn a_body_that_is_not_one_message_is_refused_with_what_is_wrong() {
        let table: [(&[&[u8]], &str); 8] = [
            (&[], "empty"),
            (&[b""], "empty"),
            (&[b"\0\0"], "after 2 bytes"),
            (&[b"\0\0\0\0\x05abc"], "3 of the 5 bytes"),
            (&[b"\0\0\0\0\x02abc"], "behind its message"),
            (&[b"\0\0\0\0\x02ab", b"\0\0\0\0\0"], "behind its message"),
            (&[b"\x01\0\0\0\x02ab"], "compressed"),
            (&[b"\x07\0\0\0\x02ab"], "flag 7"),
        ];
        for (pieces, text) in table {
            let error = read_pieces(pieces, 100).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidArgument, "{pieces:?}");
            assert!(error.detail.contains(text), "{pieces:?}: {error}");
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused_by_its_head_alone() {
        assert!(read_pieces(&[b"\0\0\0\0\x02ab"], 2).is_ok());
        let error = read_pieces(&[b"\0\xff\xff\xff\xff"], 2).unwrap_err();
        assert_eq!(error.code, ErrorCode::TooLarge);
        assert!(error.detail.contains("4294967295") && error.detail.contains('2'), "{error}");
    }

    #[test]
    fn streamed_messages_come_out_one_by_one_and_a_cut_one_is_refused() {
        let bytes = [&b"\0\0\0\0\x01a\0\0\0\0\0\0\0\0\0\x02bc"[..], b"\0\0"].concat();
        for cut in 0..bytes.len() {
            let pieces = [&bytes[..cut], &bytes[cut..]].map(Bytes::copy_from_slice);
            let frames = pieces.map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
            let mut frames = Frames::new(StreamBody::new(stream::iter(frames)), 2);
            let mut next = || frames.next().now_or_never().unwrap();
            for message in ["a", "", "bc"] {
                assert_eq!(next().unwrap().unwrap(), message);
            }
            assert!(next().unwrap_err().detail.contains("2 bytes"));
        }
    }

    #[test]
    fn a_limit_of_the_body_keeps_its_code() {
        let limit = ApiError::new(ErrorCode::RequestTimeout, "too slow");
        let frames = [Ok(Frame::data(Bytes::from_static(b"\0\0"))), Err(limit.clone())];
        let body = StreamBody::new(stream::iter(frames));
        assert_eq!(read(body, 100).now_or_never().unwrap(), Err(limit));
    }

    #[test]
    fn text_that_is_not_utf8_is_refused_with_its_field() {
        let error =
            decode::<GetObjectRequest>("get", Bytes::from_static(b"\x0a\x01\xff")).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidArgument);
        assert!(error.detail.contains("id") && error.detail.contains("UTF-8"), "{error}");
    }
}
