//! HTTP and gRPC: how requests, failures and ends look on the wire, in logs and in metrics. Both are
//! a [`Dialect`](crate::request::dialect::Dialect).

pub(crate) mod grpc;
pub(crate) mod grpc_timeout;
pub(crate) mod http;
pub(crate) mod messages;
