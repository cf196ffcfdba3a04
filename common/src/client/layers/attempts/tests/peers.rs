//! What a generated client gets of replicas that send what tonic does not expect.

use super::*;

type Health = crate::client::Codec<HealthCheckRequest, HealthCheckResponse>;

/// Calls a method of a service with one replica, as a generated client does.
async fn unary(method: &'static str, does: Does) -> Result<HealthCheckResponse, Status> {
    let (client, _) = client(vec![move |_| does]).await;
    let mut client = tonic::client::Grpc::new(client);
    client.ready().await.unwrap();
    let path = PathAndQuery::from_static(method);
    let request = tonic::Request::new(HealthCheckRequest::default());
    let response = client.unary(request, path, Health::default()).await;
    response.map(tonic::Response::into_inner)
}

#[tokio::test(start_paused = true)]
async fn details_that_are_no_base64_are_none() {
    let in_trailers = |code, details| {
        parts(|it| {
            (it.data, it.status, it.details) = (HEALTHY, Some(code), Some(details));
        })
    };
    for method in [IDEMPOTENT, ONCE, LIST, "/a.Service/Unknown"] {
        for details in ["=", "no base64!", "%"] {
            for does in [
                Does::FailWith(details),
                in_trailers(Code::Internal, details),
            ] {
                let status = unary(method, does).await.unwrap_err();
                assert_eq!(status.code(), Code::Internal, "{method} {details}");
                assert_eq!(status.details(), b"");
            }
            let response = unary(method, in_trailers(Code::Ok, details)).await;
            assert_eq!(response.unwrap().status, 1, "{method} {details}");
        }
        let status = unary(method, Does::FailWith("YWI=")).await.unwrap_err();
        assert_eq!(status.details(), b"ab");
    }
}
