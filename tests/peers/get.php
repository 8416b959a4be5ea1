<?php
// Fetches a page with PHP's own client: php get.php URL
$body = file_get_contents($argv[1], false, stream_context_create(["http" => ["timeout" => 20]]));
preg_match("/ (\d+)/", $http_response_header[0], $status);
echo "php {$status[1]} ", trim($body), "\n";
