package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"time"
)

// maxAnswer bounds what is read from the socket.
const maxAnswer = 64 << 20

// Client calls serve over its socket. Safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient connects to nothing yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 2 * time.Minute}}
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks and decodes into answer. A refusal is *Error; ErrAway says that nobody listens.
func (c *Client) Get(ctx context.Context, path string, answer any) error {
	return c.do(ctx, http.MethodGet, path, nil, answer)
}

// Post sends body as JSON, or as it is when it is []byte.
func (c *Client) Post(ctx context.Context, path string, body, answer any) error {
	return c.do(ctx, http.MethodPost, path, body, answer)
}

// Delete removes.
func (c *Client) Delete(ctx context.Context, path string, body, answer any) error {
	return c.do(ctx, http.MethodDelete, path, body, answer)
}

// AwayError says that serve does not answer on its socket.
type AwayError struct {
	Socket string
	Err    error
}

func (e *AwayError) Error() string {
	if errors.Is(e.Err, fs.ErrPermission) {
		return fmt.Sprintf("you may not connect to %s: its owner and its group may", e.Socket)
	}
	return fmt.Sprintf("serve does not answer on %s: %v", e.Socket, e.Err)
}
func (e *AwayError) Unwrap() error { return e.Err }

func (c *Client) do(ctx context.Context, method, path string, body, answer any) error {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://slipway"+path, reader)
	if err != nil {
		return err
	}
	if reader != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err != nil {
		return &AwayError{Socket: c.socket, Err: err}
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return &AwayError{Socket: c.socket, Err: err}
	}
	if response.StatusCode >= 300 {
		var refusal Error
		if err := json.Unmarshal(raw, &refusal); err != nil || refusal.Code == "" {
			return fmt.Errorf("serve answered %s", response.Status)
		}
		return &refusal
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(raw, answer)
}
