# Fetches a page with Perl's own client: perl get.pl URL
use strict;
use warnings;
use HTTP::Tiny;
my $response = HTTP::Tiny->new(timeout => 20)->get($ARGV[0]);
my $body = $response->{content};
$body =~ s/\s+$//;
print "perl $response->{status} $body\n";
