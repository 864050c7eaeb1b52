// Command hook is the alert receiver of the demonstration: each JSON body that
// is POSTed to it becomes one line of a file and of its output. With -find it
// looks for an alert in such a file instead, and exits with 1 if there is none.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

const bodyMaxBytes = 1 << 20

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "`address` to take alerts on")
	path := flag.String("out", "", "`file` that each body is appended to")
	search := flag.String("find", "", "`file` to find a firing alert in, and print it")
	service := flag.String("service", "", "with -find: the alert's service")
	inPath := flag.String("path", "", "with -find: `parts`, split by commas, that its path must hold")
	labels := flag.Bool("labels", false, "with -find: print the alert's labels only")
	flag.Parse()
	log.SetFlags(log.LstdFlags | log.LUTC)
	log.SetPrefix("hook: ")
	if (*path == "") == (*search == "") || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(64)
	}
	if *search != "" {
		os.Exit(printFound(*search, *service, *inPath, *labels))
	}

	file, err := os.OpenFile(*path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("hook on http://%s", listener.Addr())
	server := &http.Server{
		Handler:           receiver(io.MultiWriter(file, os.Stdout)),
		ReadHeaderTimeout: 5 * time.Second,
	}
	log.Fatal(server.Serve(listener))
}

// receiver writes each body to out as one line; what is not JSON is refused.
func receiver(out io.Writer) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.Error(w, "POST an alert here", http.StatusMethodNotAllowed)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyMaxBytes))
		if err != nil {
			http.Error(w, "cannot read the body", http.StatusBadRequest)
			return
		}
		var line bytes.Buffer
		if err := json.Compact(&line, body); err != nil {
			http.Error(w, "not JSON: "+err.Error(), http.StatusBadRequest)
			return
		}
		line.WriteByte('\n')
		mu.Lock()
		_, err = out.Write(line.Bytes())
		mu.Unlock()
		if err != nil {
			http.Error(w, "cannot keep the alert", http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
}
