// A client of interop.v1.InteropService by connect-go. It goes through the scenarios, and writes what came of
// each in a line of JSON.
//
//	client [-http2] ADDRESS PROTOCOL FORMAT
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"

	interopv1 "example.com/interop/gen/interop/v1"
	"example.com/interop/gen/interop/v1/interopv1connect"
)

func main() {
	isHTTP2 := flag.Bool("http2", false, "HTTP/2 alone, in cleartext by prior knowledge, in place of HTTP/1.1")
	flag.Parse()
	if flag.NArg() != 3 {
		log.Fatal("usage: client [-http2] ADDRESS PROTOCOL FORMAT")
	}
	address, protocol, format := flag.Arg(0), flag.Arg(1), flag.Arg(2)

	httpClient := newHTTPClient(*isHTTP2)
	options := newOptions(protocol, format)
	// An http.Client of its own has a connection of its own.
	observer := interopv1connect.NewInteropServiceClient(newCaller(newHTTPClient(*isHTTP2), address, options...))
	newClient := func(options ...connecthttp.Option) client {
		caller := newCaller(httpClient, address, options...)
		return client{interopv1connect.NewInteropServiceClient(caller), caller, observer}
	}
	plain, gzip := newClient(options...), newClient(append(options, connecthttp.WithSendGzip())...)

	lines := json.NewEncoder(os.Stdout)
	for _, scenario := range scenarios {
		if scenario.protocol != "" && scenario.protocol != protocol {
			continue
		}
		client := plain
		if scenario.isCompressed {
			client = gzip
		}
		line := map[string]any{"scenario": scenario.name}
		if result, err := scenario.run(context.Background(), client); err != nil {
			line["crash"] = err.Error()
		} else {
			line["result"] = result
		}
		if err := lines.Encode(line); err != nil {
			log.Fatal(err)
		}
	}
}

func newCaller(httpClient *http.Client, address string, options ...connecthttp.Option) *connect.Client {
	return connect.NewClient(connecthttp.NewTransport(httpClient, address, options...))
}

func newHTTPClient(isHTTP2 bool) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!isHTTP2)
	protocols.SetHTTP2(isHTTP2)
	protocols.SetUnencryptedHTTP2(isHTTP2)
	return &http.Client{Transport: &http.Transport{Protocols: protocols}}
}

func newOptions(protocol, format string) []connecthttp.Option {
	options := []connecthttp.Option{connecthttp.WithHTTPGet()}
	switch protocol {
	case "connect":
	case "grpc":
		options = append(options, connecthttp.WithGRPC())
	case "grpc-web":
		options = append(options, connecthttp.WithGRPCWeb())
	default:
		log.Fatalf("no such protocol: %s", protocol)
	}
	switch format {
	case "proto":
	case "json":
		options = append(options, connecthttp.WithProtoJSON())
	default:
		log.Fatalf("no such format: %s", format)
	}
	return options
}

// describe returns how a call failed: an error that is none of Connect's is returned as it is.
func describe(err error) (result, error) {
	if err == nil {
		return nil, errors.New("the call did not fail")
	}
	var connectErr *connect.Error
	if !errors.As(err, &connectErr) {
		return nil, err
	}
	details := []string{}
	for _, detail := range connectErr.Details() {
		message, err := connectproto.UnmarshalErrorDetail(detail)
		if err != nil {
			return nil, err
		}
		interopDetail, ok := message.(*interopv1.InteropDetail)
		if !ok {
			return nil, fmt.Errorf("a detail is a %T", message)
		}
		details = append(details, interopDetail.GetReason())
	}
	return result{
		"code":    connectErr.Code().String(),
		"message": connectErr.Message(),
		"details": details,
	}, nil
}
