//! The REST side: one HTTP/1.1 connection per worker, kept alive, with nothing between the worker and hyper.
//!
//! The connection is driven inside the worker's own task, so a request costs no switch between tasks.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderValue, Request, StatusCode, header::HOST};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use super::{
    BenchError,
    client::{BAD_RESPONSE, Client, OpFailure, OpReply, causes},
    plan::BenchPlan,
    rest_api::{RestApi, answer_limit_bytes},
    target::{BenchApi, RestBase},
    workload::BenchOperation,
};

/// How many connections are opened at the same time before a run.
const OPENING_MAX: usize = 64;

/// Opens one connection per worker.
pub(super) async fn connect_all(
    plan: &BenchPlan,
    base: &RestBase,
    api: BenchApi,
) -> Result<Vec<RestClient>, BenchError> {
    let host = HeaderValue::from_str(&base.authority).map_err(|error| BenchError::Connect {
        address: base.authority.clone(),
        reason: error.to_string(),
    })?;
    let shared = Arc::new(Shared {
        authority: base.authority.clone(),
        host,
        api: RestApi { api, path_prefix: base.path_prefix.clone(), mode: plan.mode },
        connect_limit: plan.timeout,
        answer_limit_bytes: answer_limit_bytes(plan.value_size_bytes),
    });
    stream::iter(0..plan.concurrency)
        .map(|_| RestClient::open(Arc::clone(&shared)))
        .buffered(OPENING_MAX)
        .try_collect()
        .await
}

/// What all REST workers of a run have in common.
struct Shared {
    authority: String,
    host: HeaderValue,
    api: RestApi,
    connect_limit: Duration,
    answer_limit_bytes: usize,
}

/// One worker's HTTP client.
pub(super) struct RestClient {
    shared: Arc<Shared>,
    // Taken out while a request is under way, so that a request dropped half-way takes its connection with it.
    connection: Option<Connection>,
}

impl RestClient {
    async fn open(shared: Arc<Shared>) -> Result<RestClient, BenchError> {
        match Connection::open(&shared).await {
            Ok(connection) => Ok(RestClient { shared, connection: Some(connection) }),
            Err(failure) => {
                let (address, reason) = (shared.authority.clone(), failure.detail);
                Err(BenchError::Connect { address, reason })
            }
        }
    }

    /// The open connection, or a new one in place of one that the server has closed in the meantime.
    async fn connection(&mut self) -> Result<Connection, OpFailure> {
        if let Some(mut connection) = self.connection.take()
            && connection.is_open().await
        {
            return Ok(connection);
        }
        Connection::open(&self.shared).await
    }
}

impl Client for RestClient {
    async fn call(&mut self, op: &BenchOperation) -> Result<OpReply, OpFailure> {
        let mut request = self.shared.api.request(op)?;
        request.headers_mut().insert(HOST, self.shared.host.clone());
        let mut connection = self.connection().await?;
        let (status, body) = connection.exchange(request, self.shared.answer_limit_bytes).await?;
        self.connection = Some(connection);
        self.shared.api.judge(op, status, &body)
    }
}

/// A connection and what drives it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
}

impl Connection {
    async fn open(shared: &Shared) -> Result<Connection, OpFailure> {
        let stream = timeout(shared.connect_limit, TcpStream::connect(&shared.authority))
            .await
            .map_err(|_| {
                OpFailure::connection(format!("not connected in {:?}", shared.connect_limit))
            })?
            .map_err(OpFailure::connection)?;
        stream.set_nodelay(true).map_err(OpFailure::connection)?;
        let (sender, driver) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| lost(&error))?;
        Ok(Connection { sender, driver: Box::pin(driver) })
    }

    /// Whether the server has not closed the connection since the last answer.
    async fn is_open(&mut self) -> bool {
        let driver = &mut self.driver;
        poll_fn(|cx| Poll::Ready(driver.as_mut().poll(cx).is_pending())).await
    }

    /// Sends a request and reads the whole answer, at most `limit_bytes` of it.
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        limit_bytes: usize,
    ) -> Result<(StatusCode, Bytes), OpFailure> {
        let Connection { sender, driver } = self;
        let mut work = pin!(async move {
            sender.ready().await.map_err(|error| lost(&error))?;
            let response = sender.send_request(request).await.map_err(|error| lost(&error))?;
            let status = response.status();
            Ok((status, read_body(response.into_body(), limit_bytes).await?))
        });
        let mut is_driver_done = false;
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(result) = work.as_mut().poll(cx) {
                    return Poll::Ready(result);
                }
                if is_driver_done {
                    return Poll::Pending;
                }
                // The driver may have brought the answer, so the work is polled once more after it; when it is not
                // done, both have left their wakers.
                match driver.as_mut().poll(cx) {
                    Poll::Ready(_) => is_driver_done = true,
                    Poll::Pending => return work.as_mut().poll(cx),
                }
            }
        })
        .await
    }
}

async fn read_body(body: Incoming, limit_bytes: usize) -> Result<Bytes, OpFailure> {
    match Limited::new(body, limit_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let detail = format!("an answer of more than {limit_bytes} bytes");
            Err(OpFailure { code: BAD_RESPONSE.into(), detail, is_connection_lost: true })
        }
        Err(error) => Err(OpFailure::connection(causes(&*error))),
    }
}

fn lost(error: &hyper::Error) -> OpFailure {
    OpFailure::connection(causes(error))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::JoinHandle,
    };

    use super::*;
    use crate::bench::{
        target::BenchTarget,
        workload::{ValuePool, Workload},
    };

    /// Accepts connections one after the other and gives each of them the next script: for each answer in it, one
    /// request is read; then the connection is closed.
    async fn scripted(scripts: Vec<Vec<String>>) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut requests = Vec::new();
            for script in scripts {
                let (mut stream, _) = listener.accept().await.unwrap();
                for answer in script {
                    let mut buffer = vec![0; 64 * 1024];
                    let read = stream.read(&mut buffer).await.unwrap();
                    requests.push(String::from_utf8_lossy(&buffer[..read]).into_owned());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
            requests
        });
        (address, serving)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    async fn client(address: SocketAddr) -> (RestClient, Workload) {
        let base: RestBase = format!("http://{address}").parse().unwrap();
        let target = BenchTarget::Rest { base: base.clone(), api: BenchApi::Objects };
        let plan =
            BenchPlan { concurrency: 1, mix: "get=1".parse().unwrap(), ..BenchPlan::new(target) };
        let mut clients = connect_all(&plan, &base, BenchApi::Objects).await.unwrap();
        let workload = Workload::new(&plan, ValuePool::new(&plan), "run", 0);
        (clients.pop().unwrap(), workload)
    }

    #[tokio::test]
    async fn requests_follow_each_other_on_one_connection() {
        let script = vec![answer("200 OK", "0123456789"), answer("404 Not Found", "{}")];
        let (address, serving) = scripted(vec![script]).await;
        let (mut client, mut workload) = client(address).await;
        assert_eq!(client.call(&workload.next()).await, Ok(OpReply { value_bytes: 10 }));
        let failure = client.call(&workload.next()).await.unwrap_err();
        assert_eq!(failure.code, "HTTP_404");
        let requests = serving.await.unwrap();
        assert!(requests[0].starts_with("GET /nomad/v1/objects/bench:k0000"), "{requests:?}");
        assert!(requests[0].contains(&format!("host: {address}")), "{requests:?}");
    }

    #[tokio::test]
    async fn a_connection_closed_between_requests_is_replaced_without_an_error() {
        let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
        let scripts = vec![vec![closing.to_owned()], vec![answer("200 OK", "hi")]];
        let (address, serving) = scripted(scripts).await;
        let (mut client, mut workload) = client(address).await;
        for _ in 0..2 {
            assert_eq!(client.call(&workload.next()).await, Ok(OpReply { value_bytes: 2 }));
        }
        assert_eq!(serving.await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_broken_answer_is_an_error_and_the_next_request_connects_again() {
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf".to_owned();
        let (address, serving) = scripted(vec![vec![half], vec![answer("200 OK", "whole")]]).await;
        let (mut client, mut workload) = client(address).await;
        let failure = client.call(&workload.next()).await.unwrap_err();
        assert_eq!((failure.code.as_ref(), failure.is_connection_lost), ("CONNECTION", true));
        assert_eq!(client.call(&workload.next()).await, Ok(OpReply { value_bytes: 5 }));
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_server_that_is_gone_is_an_error_each_time() {
        let (address, serving) = scripted(vec![vec![answer("200 OK", "hi")]]).await;
        let (mut client, mut workload) = client(address).await;
        client.call(&workload.next()).await.unwrap();
        serving.await.unwrap();
        for _ in 0..3 {
            let failure = client.call(&workload.next()).await.unwrap_err();
            assert_eq!((failure.code.as_ref(), failure.is_connection_lost), ("CONNECTION", true));
        }
    }

    #[tokio::test]
    async fn a_request_dropped_half_way_does_not_spoil_the_next() {
        let scripts = vec![vec![String::new()], vec![answer("200 OK", "hi")]];
        let (address, serving) = scripted(scripts).await;
        let (mut client, mut workload) = client(address).await;
        let op = workload.next();
        {
            let mut call = pin!(client.call(&op));
            let first = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
            assert!(first.is_pending());
        }
        assert!(client.connection.is_none());
        // The half-sent request closes the first connection, so the server goes on to the second.
        assert_eq!(client.call(&workload.next()).await, Ok(OpReply { value_bytes: 2 }));
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn an_answer_in_many_parts_is_read_whole_and_an_endless_one_is_not() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        let parts = format!("{head}{}0\r\n\r\n", chunk.repeat(3));
        let endless = format!("{head}{}", chunk.repeat(40));
        let (address, serving) = scripted(vec![vec![parts, endless]]).await;
        let (mut client, mut workload) = client(address).await;
        assert_eq!(client.call(&workload.next()).await, Ok(OpReply { value_bytes: 3 * 0x1000 }));
        let failure = client.call(&workload.next()).await.unwrap_err();
        assert_eq!(failure.code, BAD_RESPONSE);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn connecting_to_nobody_names_the_address() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let base: RestBase = format!("http://{address}").parse().unwrap();
        let plan = BenchPlan::new(BenchTarget::Rest { base: base.clone(), api: BenchApi::Objects });
        let error = connect_all(&plan, &base, BenchApi::Objects).await.err().unwrap().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
    }
}
