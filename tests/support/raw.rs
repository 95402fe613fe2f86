//! Malformed requests: half a request, bytes that are not HTTP, gRPC frames with a wrong length.

use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::{HeaderMap, Request};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use super::{ANSWER_LIMIT, http::Answer, within};

/// An HTTP/1.1 connection on which a test writes what it likes.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Connects to `address` (host:port).
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Writes bytes; `false` when the other side has closed.
    pub async fn try_write(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Writes bytes.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        assert!(self.try_write(bytes).await, "the node closed the connection");
    }

    /// Starts an upload whose body the node is now waiting for: it has answered `100 Continue`.
    pub async fn slow_upload(address: &str, path: &str, length: usize) -> Option<Self> {
        let mut wire = Self::open(address).await;
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\
             Expect: 100-continue\r\nConnection: close\r\n\r\n"
        );
        wire.write(head).await;
        let head = wire.read_head().await;
        head.starts_with("HTTP/1.1 100").then_some(wire)
    }

    /// Reads up to and including the empty line; what there was, if the connection ends before it.
    pub async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        let read = async {
            while !head.ends_with(b"\r\n\r\n") {
                match self.stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
        };
        within("a response head", ANSWER_LIMIT, read).await;
        String::from_utf8_lossy(&head).into_owned()
    }

    /// Reads until the node closes the connection, and fails the test if it does not within `limit`.
    pub async fn read_to_close(&mut self, limit: Duration) -> Vec<u8> {
        let mut all = Vec::new();
        let read = async {
            let mut chunk = vec![0; 16 * 1024];
            while let Ok(count) = self.stream.read(&mut chunk).await {
                if count == 0 {
                    break;
                }
                all.extend_from_slice(&chunk[..count]);
            }
        };
        within("the node's closing of the connection", limit, read).await;
        all
    }

    /// Reads one whole answer that ends with the connection or its content length.
    pub async fn answer(&mut self) -> Answer {
        let head = self.read_head().await;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line in {head:?}"));
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let length =
            headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let body = match length {
            Some(length) => {
                let mut body = vec![0; length];
                let read = self.stream.read_exact(&mut body);
                within("a response body", ANSWER_LIMIT, read).await.unwrap();
                body
            }
            None => self.read_to_close(ANSWER_LIMIT).await,
        };
        Answer { status, headers, body: body.into() }
    }
}

/// Sends one request as raw bytes and reads the answer.
pub async fn raw_http(address: &str, request: impl AsRef<[u8]>) -> Answer {
    let mut wire = Wire::open(address).await;
    wire.write(request).await;
    wire.answer().await
}

/// An HTTP/2 connection for gRPC frames built by hand.
pub struct RawGrpc {
    send: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    address: String,
}

/// One gRPC call in flight.
pub struct RawCall {
    /// The request's body.
    pub body: SendStream<Bytes>,
    response: h2::client::ResponseFuture,
}

/// How a raw call ended.
#[derive(Debug)]
pub struct RawEnd {
    /// HTTP status; 0 when the stream was reset.
    pub http: u16,
    /// `grpc-status`, from the trailers or (trailers only) the headers; -1 when there is none.
    pub code: i32,
    /// `grpc-message`, decoded.
    pub message: String,
}

impl RawGrpc {
    /// Connects to a gRPC listener.
    pub async fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self { send, connection, address: address.to_owned() }
    }

    /// Starts a call with these extra headers, and no byte of its body yet.
    pub async fn start(&mut self, path: &str, headers: &[(&str, &str)]) -> RawCall {
        let mut request =
            Request::post(format!("http://{}{path}", self.address)).header("te", "trailers");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        RawCall { body, response }
    }

    /// A whole call with this body.
    pub async fn call(&mut self, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> RawEnd {
        let mut call = self.start(path, headers).await;
        let _ = call.body.send_data(body.into(), true);
        call.end().await
    }

    /// Cuts the connection, as a client does that disappears.
    pub async fn cut(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }
}

impl RawCall {
    /// Waits for the end of the call.
    pub async fn end(self) -> RawEnd {
        let RawCall { body, response } = self;
        let end = async move {
            // Kept until the end: dropping it would reset the stream.
            let _body = body;
            match response.await {
                Ok(response) => read_end(response).await,
                Err(error) => RawEnd { http: 0, code: -1, message: error.to_string() },
            }
        };
        within("a gRPC status", ANSWER_LIMIT, end).await
    }
}

async fn read_end(response: http::Response<RecvStream>) -> RawEnd {
    let (parts, mut body) = response.into_parts();
    while let Some(Ok(data)) = body.data().await {
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await.ok().flatten().unwrap_or_default();
    let find = |name: &str| {
        let value = trailers.get(name).or_else(|| parts.headers.get(name))?;
        let text = percent_encoding::percent_decode(value.as_bytes()).decode_utf8_lossy();
        Some(text.into_owned())
    };
    RawEnd {
        http: parts.status.as_u16(),
        code: find("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(-1),
        message: find("grpc-message").unwrap_or_default(),
    }
}

/// A gRPC frame: flag, length prefix, bytes. The prefix may be wrong.
pub fn frame(flag: u8, length: u32, bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![flag];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    frame
}

/// A correct, uncompressed frame around an encoded message.
pub fn message(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    frame(0, u32::try_from(bytes.len()).unwrap(), &bytes)
}
