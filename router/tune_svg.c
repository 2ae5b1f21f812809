/* The picture of a frontier. */
#include "router/tune.h"

#include <math.h>

enum { WIDTH = 720, HEIGHT = 460, LEFT = 76, RIGHT = 24, TOP = 40, BOTTOM = 56, TICKS = 5 };

struct axes {
    double x0, x1, y0, y1; /* price of 1,000 requests, quality */
};

static double across(const struct axes *a, double x)
{
    return LEFT + (x - a->x0) / (a->x1 - a->x0) * (WIDTH - LEFT - RIGHT);
}

static double down(const struct axes *a, double y)
{
    return HEIGHT - BOTTOM - (y - a->y0) / (a->y1 - a->y0) * (HEIGHT - TOP - BOTTOM);
}

/* Points that are drawn: the frontier's and today's. */
static bool drawn(const struct tune *tune, int i)
{
    const struct tune_point *p = &tune->points[i];
    return !p->result.refused && (p->frontier || i == 0 || i == tune->proposal);
}

static struct axes axes_of(const struct tune *tune)
{
    struct axes a = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = 0; i < tune->count; i++) {
        const struct replay_result *r = &tune->points[i].result;
        if (!drawn(tune, i)) continue;
        a.x0 = fmin(a.x0, 1000 * r->price_usd.value);
        a.x1 = fmax(a.x1, 1000 * r->price_usd.value);
        a.y0 = fmin(a.y0, r->quality.low);
        a.y1 = fmax(a.y1, r->quality.high);
    }
    if (!(a.x1 >= a.x0)) a = (struct axes){0, 1, 0, 1};
    double mx = fmax((a.x1 - a.x0) * 0.05, 1e-9 + fabs(a.x1) * 0.01), my = fmax((a.y1 - a.y0) * 0.05, 0.002);
    return (struct axes){a.x0 - mx, a.x1 + mx, a.y0 - my, a.y1 + my};
}

static void frame(const struct axes *a, struct buf *out)
{
    for (int i = 0; i <= TICKS; i++) {
        double x = a->x0 + (a->x1 - a->x0) * i / TICKS, y = a->y0 + (a->y1 - a->y0) * i / TICKS;
        (void)buf_addf(out, "<line x1='%.1f' y1='%d' x2='%.1f' y2='%d' class='grid'/>\n", across(a, x), TOP,
                       across(a, x), HEIGHT - BOTTOM);
        (void)buf_addf(out, "<line x1='%d' y1='%.1f' x2='%d' y2='%.1f' class='grid'/>\n", LEFT, down(a, y),
                       WIDTH - RIGHT, down(a, y));
        (void)buf_addf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%.3g</text>\n", across(a, x),
                       HEIGHT - BOTTOM + 18, x);
        (void)buf_addf(out, "<text x='%d' y='%.1f' text-anchor='end'>%.1f %%</text>\n", LEFT - 8, down(a, y) + 4, 100 * y);
    }
    (void)buf_addf(out, "<text x='%d' y='%d' text-anchor='middle'>USD for 1,000 requests</text>\n",
                   (WIDTH + LEFT - RIGHT) / 2, HEIGHT - 14);
    (void)buf_addf(out, "<text x='%d' y='22'>Right answers, with 95 %% intervals</text>\n", LEFT);
}

static void mark(const struct axes *a, const struct tune *tune, int i, struct buf *out)
{
    const struct tune_point *p = &tune->points[i];
    double x = across(a, 1000 * p->result.price_usd.value), y = down(a, p->result.quality.value);
    const char *kind = i == tune->proposal ? "proposal" : i == 0 ? "today" : "point";
    (void)buf_addf(out, "<g class='%s'><line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/><circle cx='%.1f' cy='%.1f' r='%d'>",
                   kind, x, down(a, p->result.quality.low), x, down(a, p->result.quality.high), x, y,
                   i == 0 || i == tune->proposal ? 6 : 3);
    (void)buf_addf(out, "<title>edge %.3f, region %.3f: %.1f %% right, %.4g USD</title></circle>", p->target.threshold[0],
                   p->target.threshold[1], 100 * p->result.quality.value, 1000 * p->result.price_usd.value);
    if (i == 0 || i == tune->proposal)
        (void)buf_addf(out, "<text x='%.1f' y='%.1f'>%s</text>", x + 9, y - 8, kind);
    (void)buf_adds(out, "</g>\n");
}

void tune_svg(const struct tune *tune, struct buf *out)
{
    struct axes a = axes_of(tune);
    (void)buf_addf(out, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' font-family='sans-serif' "
                        "font-size='12'>\n<style>.grid{stroke:#ddd}.point,.point line{stroke:#99a;fill:#99a}"
                        ".today,.today line{stroke:#c60;fill:#c60}.proposal,.proposal line{stroke:#070;fill:#070}"
                        "g text{stroke:none}</style>\n<rect width='%d' height='%d' fill='#fff'/>\n",
                   WIDTH, HEIGHT, WIDTH, HEIGHT);
    frame(&a, out);
    for (int i = tune->count - 1; i >= 0; i--)
        if (drawn(tune, i)) mark(&a, tune, i, out);
    if (tune->supported == 0)
        (void)buf_addf(out, "<text x='%d' y='%d'>the log supports no point</text>\n", LEFT + 20, HEIGHT / 2);
    (void)buf_adds(out, "</svg>\n");
}
