package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"

	interopv1 "example.com/interop/gen/interop/v1"
	"example.com/interop/gen/interop/v1/interopv1connect"
)

type (
	request  = interopv1.InteropRequest
	response = interopv1.InteropResponse
	result   = map[string]any
)

type client struct {
	interopv1connect.InteropServiceClient

	caller   *connect.Client                       // for what is not in the service
	observer interopv1connect.InteropServiceClient // on another connection
}

type scenario struct {
	name         string
	run          func(context.Context, client) (result, error)
	protocol     string // the only one that has it, if not empty
	isCompressed bool
}

var scenarios = []scenario{
	{name: "unary", run: unary},
	{name: "unary_get", run: unaryGet, protocol: "connect"},
	{name: "client_stream", run: clientStream("a", "b", "c")},
	{name: "client_stream_empty", run: clientStream()},
	{name: "server_stream", run: serverStream(&request{Text: "x", Count: 3})},
	{name: "server_stream_empty", run: serverStream(&request{Count: 0})},
	{name: "unary_error", run: unaryError},
	{name: "client_stream_error", run: clientStreamError},
	{name: "server_stream_error", run: serverStream(&request{
		Count:   2,
		Failure: &interopv1.Failure{Code: "resource_exhausted", Message: "no more", Detail: "why"},
	})},
	{name: "unary_metadata", run: unaryMetadata},
	{name: "client_stream_metadata", run: clientStreamMetadata},
	{name: "server_stream_metadata", run: serverStreamMetadata},
	{name: "unary_timeout", run: unaryTimeout},
	{name: "timeout_arrives", run: timeoutArrives},
	{name: "client_stream_timeout", run: clientStreamTimeout},
	{name: "server_stream_timeout", run: serverStreamTimeout},
	{name: "cancel", run: cancel},
	{name: "unary_cancel", run: unaryCancel},
	{name: "client_stream_cancel", run: clientStreamCancel},
	{name: "compressed", run: compressed, isCompressed: true},
	{name: "bidi", run: bidi},
	{name: "unknown_method", run: unknown("/interop.v1.InteropService/Absent")},
	{name: "unknown_service", run: unknown("/absent.v1.AbsentService/Call")},
	{name: "not_modified", run: notModified, protocol: "connect"},
}

func unary(ctx context.Context, client client) (result, error) {
	response, err := client.Unary(ctx, &request{Text: "hello"})
	return result{"text": response.GetText()}, err
}

func unaryGet(ctx context.Context, client client) (result, error) {
	ctx, call := connect.NewClientContext(ctx)
	response, err := client.UnarySafely(ctx, &request{Text: "hello"})
	if err != nil {
		return nil, err
	}
	if method := call.TransportInfo.(*connecthttp.ClientInfo).HTTPMethod(); method != "GET" {
		return nil, fmt.Errorf("it was called by %s", method)
	}
	return result{"text": response.GetText()}, nil
}

func clientStream(texts ...string) func(context.Context, client) (result, error) {
	return func(ctx context.Context, client client) (result, error) {
		var requests []*request
		for _, text := range texts {
			requests = append(requests, &request{Text: text})
		}
		response, err := send(ctx, client, requests...)
		return result{"text": response.GetText(), "number": response.GetNumber()}, err
	}
}

func serverStream(request *request) func(context.Context, client) (result, error) {
	return func(ctx context.Context, client client) (result, error) {
		return receive(ctx, client, request)
	}
}

func unaryError(ctx context.Context, client client) (result, error) {
	_, err := client.Unary(ctx, &request{
		Failure: &interopv1.Failure{Code: "not_found", Message: "nothing here: é, 100%", Detail: "why"},
	})
	return describe(err)
}

func clientStreamError(ctx context.Context, client client) (result, error) {
	_, err := send(ctx, client, &request{Text: "a"}, &request{
		Failure: &interopv1.Failure{Code: "failed_precondition", Message: "too late", Detail: "why"},
	})
	return describe(err)
}

func unaryMetadata(ctx context.Context, client client) (result, error) {
	return echoed(ctx, func(ctx context.Context) error {
		_, err := client.Unary(ctx, &request{})
		return err
	})
}

func clientStreamMetadata(ctx context.Context, client client) (result, error) {
	return echoed(ctx, func(ctx context.Context) error {
		_, err := send(ctx, client, &request{})
		return err
	})
}

func serverStreamMetadata(ctx context.Context, client client) (result, error) {
	return echoed(ctx, func(ctx context.Context) error {
		_, err := receive(ctx, client, &request{Count: 1})
		return err
	})
}

func unaryTimeout(ctx context.Context, client client) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := client.Unary(ctx, &request{Wait: true})
	failure, err := describe(err)
	return result{"code": failure["code"]}, err
}

func timeoutArrives(ctx context.Context, client client) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	response, err := client.Unary(ctx, &request{})
	left := response.GetTimeoutMs()
	return result{"timeout_arrived": 0 < left && left <= 60_000}, err
}

func clientStreamTimeout(ctx context.Context, client client) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	failure, err := describe(sendWithoutEnd(ctx, client, &request{}))
	return result{"code": failure["code"]}, err
}

func serverStreamTimeout(ctx context.Context, client client) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	got, err := receive(ctx, client, &request{Count: 2, Wait: true})
	return result{"numbers": got["numbers"], "code": got["code"]}, err
}

func cancel(ctx context.Context, client client) (result, error) {
	key := rand.Text()
	numbers := []int32{}
	streamCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.ServerStream(streamCtx, &request{Count: -1, Key: key})
	if err != nil {
		return nil, err
	}
	for range 3 {
		response, err := stream.Receive()
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, response.GetNumber())
	}
	cancel()
	outcome, err := client.Outcome(ctx, &interopv1.OutcomeRequest{Key: key})
	return result{"numbers": numbers, "outcome": outcome.GetOutcome()}, err
}

func unaryCancel(ctx context.Context, client client) (result, error) {
	return cancelStarted(ctx, client, func(ctx context.Context, key string) error {
		_, err := client.Unary(ctx, &request{Wait: true, Key: key})
		return err
	})
}

func clientStreamCancel(ctx context.Context, client client) (result, error) {
	return cancelStarted(ctx, client, func(ctx context.Context, key string) error {
		return sendWithoutEnd(ctx, client, &request{Key: key})
	})
}

func compressed(ctx context.Context, client client) (result, error) {
	ctx, call := connect.NewClientContext(ctx)
	response, err := client.Unary(ctx, &request{Text: strings.Repeat("z", 20_000)})
	return result{
		"size":              len(response.GetText()),
		"request_encoding":  response.GetRequestEncoding(),
		"response_encoding": call.ResponseEncoding,
	}, err
}

func bidi(ctx context.Context, client client) (result, error) {
	stream, err := client.BidiStream(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	// A server that has answered already ends the request: the answer tells more than io.EOF.
	if err := stream.Send(&request{}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	_, err = stream.Receive()
	failure, err := describe(err)
	return result{"code": failure["code"]}, err
}

func unknown(procedure string) func(context.Context, client) (result, error) {
	return func(ctx context.Context, client client) (result, error) {
		spec := connect.Spec{StreamType: connect.StreamTypeUnary, Procedure: procedure}
		failure, err := describe(client.caller.CallUnary(ctx, spec, &request{}, &response{}))
		return result{"code": failure["code"]}, err
	}
}

func notModified(ctx context.Context, client client) (result, error) {
	ctx, call := connect.NewClientContext(ctx)
	call.RequestHeader().Set("if-none-match", `"1"`)
	_, err := client.UnarySafely(ctx, &request{Text: "hello"})
	if err == nil {
		return nil, errors.New("the call did not fail")
	}
	return result{
		"is_not_modified": connecthttp.IsNotModifiedError(err),
		"etag":            call.ResponseHeader().Get("etag"),
	}, nil
}

// send makes a client-streaming call.
func send(ctx context.Context, client client, requests ...*request) (*response, error) {
	stream, err := client.ClientStream(ctx)
	if err != nil {
		return nil, err
	}
	for _, request := range requests {
		if err := stream.Send(request); err != nil {
			return nil, err
		}
	}
	return stream.CloseAndReceive()
}

// sendWithoutEnd makes a client-streaming call that sends a request again and again until the call has failed,
// and returns its error.
func sendWithoutEnd(ctx context.Context, client client, request *request) error {
	stream, err := client.ClientStream(ctx)
	if err != nil {
		return err
	}
	for err == nil {
		time.Sleep(time.Millisecond)
		err = stream.Send(request)
	}
	if errors.Is(err, io.EOF) {
		_, err = stream.CloseAndReceive()
	}
	// A call that was given up is not closed: its request would come to an end before it was reset.
	return err
}

// cancelStarted makes a call, gives it up when the service has got its key, and returns what it has told of it.
func cancelStarted(
	ctx context.Context, client client, makeCall func(ctx context.Context, key string) error,
) (result, error) {
	key := rand.Text()
	callCtx, cancel := context.WithCancel(ctx)
	started := make(chan error, 1)
	go func() {
		_, err := client.observer.Started(ctx, &interopv1.StartedRequest{Key: key})
		started <- err
		cancel()
	}()
	if err := makeCall(callCtx, key); connect.CodeOf(err) != connect.CodeCanceled {
		return nil, fmt.Errorf("the call was not canceled: %w", err)
	}
	if err := <-started; err != nil {
		return nil, err
	}
	outcome, err := client.Outcome(ctx, &interopv1.OutcomeRequest{Key: key})
	return result{"outcome": outcome.GetOutcome()}, err
}

// receive makes a server-streaming call, and returns what came, with the error of the call if there is one.
func receive(ctx context.Context, client client, request *request) (result, error) {
	texts, numbers := []string{}, []int32{}
	stream, err := client.ServerStream(ctx, request)
	if err != nil {
		return nil, err
	}
	for {
		response, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return result{"texts": texts, "numbers": numbers}, nil
		}
		if err != nil {
			got, err := describe(err)
			if err == nil {
				got["texts"], got["numbers"] = texts, numbers
			}
			return got, err
		}
		texts = append(texts, response.GetText())
		numbers = append(numbers, response.GetNumber())
	}
}

// echoed returns the metadata that came back from a call.
func echoed(ctx context.Context, makeCall func(context.Context) error) (result, error) {
	ctx, call := connect.NewClientContext(ctx)
	call.RequestHeader().Set("echo-ascii", "one, two")
	call.RequestHeader().Set("echo-bin", connect.EncodeBinaryHeader([]byte{0x00, 0x01, 0xfe, 0xff}))
	if err := makeCall(ctx); err != nil {
		return nil, err
	}
	leading, trailing := call.ResponseHeader(), call.ResponseTrailer()
	data, err := connect.DecodeBinaryHeader(leading.Get("echo-bin"))
	if err != nil {
		return nil, err
	}
	trailingData, err := connect.DecodeBinaryHeader(trailing.Get("echo-trailer-bin"))
	return result{
		"ascii":       leading.Get("echo-ascii"),
		"trailer":     trailing.Get("echo-trailer"),
		"bin":         hex.EncodeToString(data),
		"trailer_bin": hex.EncodeToString(trailingData),
	}, err
}
