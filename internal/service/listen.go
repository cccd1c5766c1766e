package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// listen binds the socket, and the address of /healthz where there is one (nil otherwise): before anything is driven, so that who cannot be
// reached does not begin.
func (s *Service) listen(ctx context.Context) (socket, health net.Listener, err error) {
	if s.Config.Listen != "" {
		if health, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.Config.Listen); err != nil {
			return nil, nil, fmt.Errorf("listen: %w", err)
		}
	}
	if socket, err = listenSocket(ctx, s.Config.Socket); err != nil {
		if health != nil {
			_ = health.Close()
		}
		return nil, nil, fmt.Errorf("socket: %w", err)
	}
	return socket, health, nil
}

// listenSocket binds a Unix socket. Who may connect decides its mode: the owner and the group.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	// A socket that a dead process left behind is in the way; one that answers is another serve's.
	dialer := net.Dialer{Timeout: time.Second}
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("another serve answers on %s; give this one a socket of its own", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}
