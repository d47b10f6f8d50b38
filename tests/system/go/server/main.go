// interop.v1.InteropService by connect-go over HTTP/1.1: tells its port in a line, and serves until it is killed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	interopv1 "example.com/interop/gen/interop/v1"
	"example.com/interop/gen/interop/v1/interopv1connect"
)

const etag = `"1"`

func main() {
	server := connect.NewServer()
	interopv1connect.RegisterInteropServiceHandler(server, &service{})
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.Serve(listener, mux))
}

type service struct {
	interopv1connect.UnimplementedInteropServiceHandler

	starts   sync.Map // channels that each get one value, by key
	outcomes sync.Map // channels that each get one outcome, by key
}

func (s *service) Unary(ctx context.Context, request *interopv1.InteropRequest) (_ *interopv1.InteropResponse, err error) {
	s.start(request.GetKey())
	defer func() { s.end(request.GetKey(), outcomeOf(err)) }()
	echoMetadata(ctx)
	if err := waitAndFailAsAsked(ctx, request); err != nil {
		return nil, err
	}
	call, _ := connect.CallInfoForServerContext(ctx)
	return &interopv1.InteropResponse{
		Text:            request.GetText(),
		TimeoutMs:       timeoutMs(ctx),
		RequestEncoding: call.RequestEncoding,
	}, nil
}

func (s *service) UnarySafely(ctx context.Context, request *interopv1.InteropRequest) (*interopv1.InteropResponse, error) {
	if call, ok := connecthttp.ServerInfoForContext(ctx); !ok || call.HTTPMethod() != http.MethodGet {
		return nil, connect.NewError(connect.CodeFailedPrecondition, "it was not called by GET")
	}
	call, _ := connect.CallInfoForServerContext(ctx)
	call.ResponseHeader().Set("etag", etag)
	if call.RequestHeader().Get("if-none-match") == etag {
		return nil, connecthttp.NewNotModifiedError()
	}
	return s.Unary(ctx, request)
}

func (s *service) ClientStream(
	ctx context.Context, requests interopv1connect.InteropServiceClientStreamServerStream,
) (_ *interopv1.InteropResponse, err error) {
	echoMetadata(ctx)
	var key string
	defer func() { s.end(key, outcomeOf(err)) }()
	var texts []string
	for {
		request, err := requests.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if len(texts) == 0 {
			key = request.GetKey()
			s.start(key)
		}
		if err := waitAndFailAsAsked(ctx, request); err != nil {
			return nil, err
		}
		texts = append(texts, request.GetText())
	}
	return &interopv1.InteropResponse{
		Text:      strings.Join(texts, ","),
		Number:    int32(len(texts)),
		TimeoutMs: timeoutMs(ctx),
	}, nil
}

func (s *service) ServerStream(
	ctx context.Context, request *interopv1.InteropRequest, responses interopv1connect.InteropServiceServerStreamServerStream,
) error {
	echoMetadata(ctx)
	err := respond(ctx, request, responses)
	outcome := outcomeOf(err)
	if errors.Is(ctx.Err(), context.Canceled) {
		outcome = "closed"
	}
	s.end(request.GetKey(), outcome)
	return err
}

func (s *service) Started(ctx context.Context, request *interopv1.StartedRequest) (*interopv1.StartedResponse, error) {
	select {
	case <-at(&s.starts, request.GetKey()):
		return &interopv1.StartedResponse{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *service) Outcome(ctx context.Context, request *interopv1.OutcomeRequest) (*interopv1.OutcomeResponse, error) {
	select {
	case outcome := <-at(&s.outcomes, request.GetKey()):
		return &interopv1.OutcomeResponse{Outcome: outcome}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *service) start(key string) {
	if key != "" {
		at(&s.starts, key) <- "started"
	}
}

func (s *service) end(key, outcome string) {
	if key != "" {
		at(&s.outcomes, key) <- outcome
	}
}

func at(channels *sync.Map, key string) chan string {
	channel, _ := channels.LoadOrStore(key, make(chan string, 1))
	return channel.(chan string)
}

func outcomeOf(err error) string {
	switch {
	case err == nil:
		return "finished"
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled.String()
	default:
		return connect.CodeOf(err).String()
	}
}

func respond(
	ctx context.Context, request *interopv1.InteropRequest, responses interopv1connect.InteropServiceServerStreamServerStream,
) error {
	for number := int32(0); number != request.GetCount(); number++ {
		response := &interopv1.InteropResponse{Text: request.GetText(), Number: number, TimeoutMs: timeoutMs(ctx)}
		if err := responses.Send(response); err != nil {
			return err
		}
		if request.GetCount() < 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return waitAndFailAsAsked(ctx, request)
}

func echoMetadata(ctx context.Context) {
	call, _ := connect.CallInfoForServerContext(ctx)
	for _, value := range call.RequestHeader().Values("echo-ascii") {
		call.ResponseHeader().Add("echo-ascii", value)
		call.ResponseTrailer().Add("echo-trailer", value)
	}
	for _, value := range call.RequestHeader().Values("echo-bin") {
		call.ResponseHeader().Add("echo-bin", value)
		call.ResponseTrailer().Add("echo-trailer-bin", value)
	}
}

func waitAndFailAsAsked(ctx context.Context, request *interopv1.InteropRequest) error {
	if request.GetWait() {
		<-ctx.Done()
		return ctx.Err()
	}
	failure := request.GetFailure()
	if failure == nil {
		return nil
	}
	var code connect.Code
	if err := code.UnmarshalText([]byte(failure.GetCode())); err != nil {
		return err
	}
	err := connect.NewError(code, failure.GetMessage())
	if failure.GetDetail() == "" {
		return err
	}
	detail, detailErr := connectproto.NewErrorDetail(&interopv1.InteropDetail{Reason: failure.GetDetail()})
	if detailErr != nil {
		return detailErr
	}
	return err.WithDetail(detail)
}

func timeoutMs(ctx context.Context) float64 {
	deadline, ok := ctx.Deadline()
	if !ok {
		return -1
	}
	return float64(time.Until(deadline)) / float64(time.Millisecond)
}
