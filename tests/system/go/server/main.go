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

	outcomes sync.Map // channels that each get one outcome, by key
}

func (*service) Unary(ctx context.Context, request *interopv1.InteropRequest) (*interopv1.InteropResponse, error) {
	echoMetadata(ctx)
	if err := waitAndFailAsAsked(ctx, request); err != nil {
		return nil, err
	}
	return &interopv1.InteropResponse{Text: request.GetText(), TimeoutMs: timeoutMs(ctx)}, nil
}

func (s *service) UnarySafely(ctx context.Context, request *interopv1.InteropRequest) (*interopv1.InteropResponse, error) {
	if call, ok := connecthttp.ServerInfoForContext(ctx); !ok || call.HTTPMethod() != http.MethodGet {
		return nil, connect.NewError(connect.CodeFailedPrecondition, "it was not called by GET")
	}
	return s.Unary(ctx, request)
}

func (*service) ClientStream(
	ctx context.Context, requests interopv1connect.InteropServiceClientStreamServerStream,
) (*interopv1.InteropResponse, error) {
	echoMetadata(ctx)
	var texts []string
	for {
		request, err := requests.Receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
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
	outcome := "finished"
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		outcome = "closed"
	case err != nil:
		outcome = connect.CodeOf(err).String()
	}
	if request.GetKey() != "" {
		s.outcomeOf(request.GetKey()) <- outcome
	}
	return err
}

func (s *service) Outcome(ctx context.Context, request *interopv1.OutcomeRequest) (*interopv1.OutcomeResponse, error) {
	select {
	case outcome := <-s.outcomeOf(request.GetKey()):
		return &interopv1.OutcomeResponse{Outcome: outcome}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *service) outcomeOf(key string) chan string {
	outcome, _ := s.outcomes.LoadOrStore(key, make(chan string, 1))
	return outcome.(chan string)
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
