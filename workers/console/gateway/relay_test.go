package gateway_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"slipway/orchestrator"
	"slipway/workers/console/rfb"
)

// TestALargePictureComesInLargeFrames: a read of a display's TLS gives 16 KiB at most, and a browser gets more than that at once.
func TestALargePictureComesInLargeFrames(t *testing.T) {
	t.Parallel()
	g := newBefore(t, newSource(t, 0))
	ws, _, err := websocket.Dial(t.Context(), g.base.String()+"/m/"+oneID+"/socket", &websocket.DialOptions{
		HTTPHeader: http.Header{"Cookie": {g.pass(t)}, "Origin": {g.base.String()}}, Subprotocols: []string{"binary"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	ws.SetReadLimit(1 << 20)
	if _, err := rfb.Handshake(t.Context(), websocket.NetConn(t.Context(), ws, websocket.MessageBinary), orchestrator.Secret{}); err != nil {
		t.Fatal(err)
	}
	const amount = 64 // MiB
	if err := ws.Write(t.Context(), websocket.MessageBinary, []byte{'T', 0, 0, amount, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	largest := 0
	for got := 0; got < amount<<20 && largest < 32<<10; {
		_, frame, err := ws.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got += len(frame)
		largest = max(largest, len(frame))
	}
	if largest < 32<<10 {
		t.Errorf("the largest frame has %d bytes", largest)
	}
}

// TestAfterAPictureTheScreenGoesOn: a picture that ends with a full record is no end of the connection.
func TestAfterAPictureTheScreenGoesOn(t *testing.T) {
	t.Parallel()
	for _, w := range ways(t, newSource(t, 0)) {
		conn, err := w.open()
		if err != nil {
			t.Fatalf("%s: %v", w.name, err)
		}
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		const record = 16 << 10
		for range 3 {
			if _, err := conn.Write([]byte{'T', 0, 0, 1, 0, 0, record >> 8, 0}); err != nil {
				t.Fatalf("%s: %v", w.name, err)
			}
			if _, err := io.CopyN(io.Discard, conn, 1<<20+record); err != nil {
				t.Fatalf("%s: %v", w.name, err)
			}
			key := []byte{4, 1, 0, 0, 0, 0, 0, 'a'}
			if _, err := conn.Write(key); err != nil {
				t.Fatalf("%s: %v", w.name, err)
			}
			if _, err := io.ReadFull(conn, key); err != nil {
				t.Fatalf("%s: a key after the picture: %v", w.name, err)
			}
		}
		_ = conn.Close()
	}
}
