package gateway

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
)

// Files of the page, and noVNC as npm has it (@novnc/novnc, MPL-2.0): the archive itself, so that anybody can compare it.
//
//go:embed page
var files embed.FS

const (
	noVNC = "page/novnc-1.7.0.tgz"
	// noVNCIntegrity is what npm publishes as dist.integrity of that version.
	noVNCIntegrity = "sha512-ucEJOx4T2avIRCleodk7YobZj5O2Ga2AeLfQ69A/yjG9HHba2+PDgwSkN3FttrmG+70ZGx21sElNFouK13RzyA=="
	maxUnpacked    = 8 << 20
)

type asset struct {
	body []byte
	kind string
	etag string
}

var types = map[string]string{
	".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".html": "text/html; charset=utf-8", ".svg": "image/svg+xml",
	".txt": "text/plain; charset=utf-8",
}

// load reads the page's files and unpacks noVNC beside them: core/ and vendor/ under novnc/.
var load = sync.OnceValues(func() (map[string]asset, error) {
	out := map[string]asset{}
	add := func(name string, body []byte) {
		if kind := types[path.Ext(name)]; kind != "" {
			sum := sha256.Sum256(body)
			out[name] = asset{body: body, kind: kind, etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
		}
	}
	entries, err := files.ReadDir("page")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		body, err := files.ReadFile("page/" + e.Name())
		if err != nil {
			return nil, err
		}
		add("/"+e.Name(), body)
	}
	archive, err := files.ReadFile(noVNC)
	if err != nil {
		return nil, err
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	reader := tar.NewReader(io.LimitReader(unzipped, maxUnpacked))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", noVNC, err)
		}
		body, err := io.ReadAll(reader)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", noVNC, err)
		}
		add("/novnc/"+strings.TrimPrefix(header.Name, "package/"), body)
	}
})

// assets serves the files by name; they change with the binary only.
func assets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serve(w, r, r.URL.Path, "public, max-age=3600")
	})
}

// page is the same for every machine: its script asks for the rest.
func (g *Gateway) page(w http.ResponseWriter, r *http.Request) {
	serve(w, r, "/console.html", "no-store")
}

func serve(w http.ResponseWriter, r *http.Request, name, caching string) {
	all, err := load()
	if err != nil {
		http.Error(w, "the console's files cannot be read", http.StatusInternalServerError)
		return
	}
	a, ok := all[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Cache-Control", caching)
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("ETag", a.etag)
	if r.Header.Get("If-None-Match") == a.etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	_, _ = w.Write(a.body) // the viewer has gone if this fails
}
