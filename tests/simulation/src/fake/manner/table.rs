//! Each manner. One that equals `fails` lets no call succeed, whatever its method.

use super::Kind;

manners! {
    Call {
        /// The response that the order asks for.
        Good,
        /// The same, late.
        Slow,
        /// The same, before the request has ended.
        Early,
        /// The same, followed by a reset without an error, as nobody reads the rest of the request.
        EarlyThenReset,
        /// Some heads of 1xx come first.
        Interim,
        /// Hundreds of heads of 1xx come first.
        InterimFlood,
        /// The heads are split into CONTINUATION frames.
        Split,
        /// All frames are padded.
        Padded,
        /// Each frame of data has a few bytes.
        TinyFrames,
        /// The messages come in parts, with pauses.
        Trickle,
        /// Some frames of data are empty.
        EmptyData,
        /// Hundreds of frames of data are empty.
        EmptyDataFlood,
        /// Frames of unknown types and PRIORITY come between.
        UnknownFrames,
        /// A good response, and frames after its end.
        FramesAfterEnd,
        /// A good response, and a reset after its end.
        ResetAfterEnd,
        /// A response after the client has given up.
        AfterCancel,
        /// A second head, as if it were an interim one.
        HeadTwice,
        /// The message comes twice.
        MessageTwice,
        /// The trailers come before the message.
        TrailersFirst,
        /// OK without a message.
        NoMessage,
        /// Two statuses: OK and another one.
        StatusTwice,
        /// A status in the head, and another one after the message.
        StatusInHead,
        /// Trailers of 32 KiB.
        LongTrailers,
        /// Nothing.
        Hang = fails,
        /// A head, and nothing else.
        HangAfterHead = fails,
        /// A part of a message, and nothing else.
        HangInMessage = fails,
        /// A message, but no end.
        HangAfterMessage = fails,
        /// Messages without end.
        Endless = fails,
        /// The stream ends after the data.
        NoTrailers = fails,
        /// The stream ends with a head without a status.
        EndOnHead = fails,
        /// A page, with any HTTP status.
        Html = fails,
        /// An HTTP status without gRPC.
        HttpStatus = fails,
        /// An HTTP status that is not 200, with gRPC's content type.
        HttpStatusOfGrpc = fails,
        /// An HTTP status that is none.
        NoHttpStatus = fails,
        /// A message that is no protobuf.
        Garbage = fails,
        /// A message whose fields have other types.
        OtherType = fails,
        /// A compression flag that is neither 0 nor 1.
        InvalidFlag = fails,
        /// A message that says that it is compressed.
        Compressed = fails,
        /// A message of an encoding that nobody knows.
        UnknownEncoding = fails,
        /// The response ends in the middle of a message.
        CutShort = fails,
        /// The response ends in the middle of a prefix.
        CutInPrefix = fails,
        /// The prefix says more than clients accept. Nothing follows.
        TooLongDeclared = fails,
        /// A message longer than clients accept.
        TooLongSent = fails,
        /// Trailers without a status.
        StatusMissing = fails,
        /// A status that is no number.
        StatusNoNumber = fails,
        /// A status that no gRPC knows.
        StatusUnknownNumber = fails,
        /// UNAVAILABLE.
        Unavailable = fails,
        /// INTERNAL.
        Internal = fails,
        /// UNKNOWN.
        Unknown = fails,
        /// `RESOURCE_EXHAUSTED`.
        ResourceExhausted = fails,
        /// Any other code.
        OtherCode = fails,
        /// A status whose texts are odd.
        OddMessage = fails,
        /// A status whose details are no base64.
        InvalidDetails = fails,
        /// A failure, with a pushback of up to a second.
        Pushback = fails,
        /// A failure, with a pushback of 0.
        PushbackZero = fails,
        /// A failure that forbids another attempt.
        PushbackNegative = fails,
        /// A failure, with a pushback of years, or one that overflows.
        PushbackHuge = fails,
        /// A failure, with a pushback that is no number.
        PushbackGarbage = fails,
        /// A reset before the head.
        ResetBeforeHead = fails,
        /// A reset after the head.
        ResetAfterHead = fails,
        /// A reset in a message.
        ResetInMessage = fails,
        /// A reset after a message.
        ResetAfterMessage = fails,
        /// A reset, and frames after it.
        FramesAfterReset = fails,
        /// The call is refused.
        Refused = fails,
        /// The call is refused, late.
        RefusedLate = fails,
        /// The call is refused after a head.
        RefusedAfterHead = fails,
        /// A GOAWAY that refuses the call. The connection goes on.
        GoAwayRefusing = fails,
        /// A GOAWAY that refuses the call, and the end of the connection.
        GoAwayRefusingThenClose = fails,
        /// A GOAWAY that refuses the call, and nothing else.
        GoAwayRefusingThenMute = fails,
        /// A GOAWAY that includes the call, which gets a good response.
        GoAwayThenGood,
        /// The same with debug data.
        GoAwayWithDebugData,
        /// A GOAWAY that includes all ids, another one with the last one, and a good response.
        GoAwayTwice,
        /// A second GOAWAY whose last id is higher, and a good response.
        GoAwayRising,
        /// Hundreds of GOAWAYs, and a good response.
        GoAwayFlood,
        /// A GOAWAY that includes the call, and nothing else.
        GoAwayThenMute = fails,
        /// A GOAWAY with an error, and the end of the connection.
        GoAwayThenClose = fails,
        /// A GOAWAY that is too short.
        GoAwayShort = fails,
        /// The connection ends.
        Close = fails,
        /// The connection ends after a head.
        CloseAfterHead = fails,
        /// The connection ends after a message.
        CloseAfterMessage = fails,
        /// The connection ends in a frame.
        CloseInFrame = fails,
        /// The connection hangs in a frame.
        MuteInFrame = fails,
        /// A field has an invalid name or place.
        InvalidField = fails,
        /// The content length is wrong.
        ContentLength = fails,
        /// The head can't be decoded.
        InvalidHpack = fails,
        /// A head of a hundred KiB.
        LongHead = fails,
        /// CONTINUATION frames that do not end.
        ContinuationFlood = fails,
        /// Another frame in the middle of a head.
        BrokenContinuation = fails,
        /// A head whose end never comes.
        HalfHead = fails,
        /// Data without a head.
        DataFirst = fails,
        /// A frame whose length or padding is invalid.
        InvalidLength = fails,
        /// A frame for a stream that can't have it.
        WrongStream = fails,
        /// A promise that the client has forbidden.
        PushPromise = fails,
        /// A window of the stream grows by 0.
        WindowZero,
        /// A window of the stream overflows.
        WindowOverflow,
        /// More data than the window of the stream.
        WindowIgnored = fails,
    }
    Health {
        /// SERVING.
        Serving,
        /// SERVING, late.
        ServingLate,
        /// `NOT_SERVING`.
        NotServing,
        /// `NOT_SERVING` at times.
        NotServingAtTimes,
        /// UNIMPLEMENTED.
        HealthUnimplemented,
        /// UNAVAILABLE.
        HealthUnavailable,
        /// No response.
        HealthSilent,
        /// A reset.
        HealthReset,
        /// A page.
        HealthNotGrpc,
        /// A message that is no protobuf.
        HealthGarbage,
        /// At times a GOAWAY that includes all calls so far, and no response.
        HealthGoAwayAtTimes,
    }
    Connection {
        /// A server's preface, and nothing else.
        Plain,
        /// One stream at a time.
        OneStream,
        /// Up to 512 streams at a time.
        SomeStreams,
        /// No stream at all.
        NoStreams = fails,
        /// A number of streams that changes.
        StreamsChange,
        /// No stream for a while.
        NoStreamsForAWhile,
        /// No window for requests.
        NoWindow,
        /// A window of a few bytes for each stream.
        SmallWindow,
        /// A window of up to 1 MiB for each stream.
        LargeWindow,
        /// A window for each stream that changes.
        WindowChanges,
        /// Larger frames, no table, and settings that nobody knows.
        OtherSettings,
        /// The settings come late.
        SettingsLate,
        /// The settings never come.
        SettingsNever,
        /// The settings of the client are never acknowledged.
        SettingsUnacknowledged,
        /// Many settings.
        SettingsFlood,
        /// A setting with an invalid value or length.
        SettingsInvalid = fails,
        /// An acknowledgement that nobody waits for.
        SettingsAcknowledgedTwice,
        /// Pings are never answered.
        PingUnanswered,
        /// Pings are answered late.
        PingLate,
        /// Pings are answered with other bytes.
        PingOtherBytes,
        /// Many pings of the fake's own.
        PingFlood,
        /// An answer to a ping that nobody sent.
        PingUnasked,
        /// The windows of requests never grow.
        NoWindowUpdates,
        /// The window of the connection grows by 0.
        ConnectionWindowZero,
        /// The window of the connection overflows.
        ConnectionWindowOverflow,
        /// Frames of unknown types.
        UnknownTypes,
        /// A frame that no connection may have, after a while.
        Misplaced,
        /// A GOAWAY at once, that refuses everything.
        GoAwayAtOnce = fails,
        /// A GOAWAY after a while; the connection goes on.
        GoAwayLater,
        /// A GOAWAY after a while, and the end of the connection soon after.
        GoAwayLaterThenClose,
        /// The connection hangs after a while.
        MuteLater,
        /// The same, where few streams are taken at a time.
        FewStreamsThenMute,
        /// The connection ends after a while.
        CloseLater,
        /// The connection ends at once.
        CloseAtOnce = fails,
        /// Nothing is sent.
        Silent = fails,
        /// A response of HTTP/1.1.
        Http1 = fails,
        /// Bytes that are no protocol.
        Noise = fails,
        /// An alert of TLS.
        TlsAlert = fails,
    }
}
